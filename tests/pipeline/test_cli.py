from importlib.metadata import version

from tests.releases import everystep


def test_version_is_that_of_the_installed_package() -> None:
    done = everystep("--version")
    assert (done.code, done.out) == (0, f"everystep {version('everystep')}\n")
