"""The style sheet of the page: one column of text, tables that scroll in their own box, light and dark.

Colours of text have a contrast of at least 4.5 to what is below them in both themes (`tests` measure it). Nothing is
loaded: the fonts are those of the reader's system.
"""

from pipeline.release.report.charts import sheet

STYLE = """
:root{color-scheme:light dark;
--ground:#fbfaf7;--raised:#ffffff;--ink:#1d2025;--soft:#575c64;--rule:#dedad2;--accent:#0b5fa5;--wash:#f1eee7;
--h1:#e3ecf5;--h2:#c6dbee;--h3:#9fc2e2;--code:#f1eee7}
@media (prefers-color-scheme:dark){:root{
--ground:#15171b;--raised:#1b1e23;--ink:#e7e5e0;--soft:#a9aeb6;--rule:#343941;--accent:#8cc4ff;--wash:#20242a;
--h1:#1e2b38;--h2:#1f3a54;--h3:#1f4a73;--code:#23272e}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-padding-top:1rem}
body{margin:0;background:var(--ground);color:var(--ink);
font:1.0625rem/1.6 Inter,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
header,main,footer,.contents{max-width:72rem;margin-inline:auto;padding-inline:1.25rem}
header{padding-top:3.5rem}
h1,h2,h3{line-height:1.2;text-wrap:balance;font-family:"Iowan Old Style","Palatino Linotype",Palatino,
P052,"Book Antiqua",Georgia,serif;font-weight:700}
h1{font-size:clamp(2rem,6vw,3.1rem);margin:0 0 .4rem;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.9rem;margin:0 0 1rem;padding-top:1.1rem;border-top:3px solid var(--ink)}
h3{font-size:1.28rem;margin:2.6rem 0 .6rem}
p,.prose{max-width:44rem;margin:.6rem 0;text-wrap:pretty}
.title{font-size:1.25rem;color:var(--soft);margin:0 0 1.4rem}
.lede{font-size:1.16rem}
section{margin-top:4rem}
a{color:var(--accent);text-underline-offset:.18em;text-decoration-thickness:1px}
a:hover{text-decoration-thickness:2px}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px;border-radius:3px}
.skip{position:absolute;left:-99rem}
.skip:focus{left:1rem;top:.6rem;padding:.3rem .7rem;background:var(--raised);z-index:1}
code{font:.86em/1.45 ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace;background:var(--code);
padding:.1em .32em;border-radius:4px;overflow-wrap:anywhere}
.figures{display:grid;grid-template-columns:repeat(4,1fr);gap:1px;margin:2rem 0 0;
background:var(--rule);border:1px solid var(--rule);border-radius:10px;overflow:hidden}
.figures div{display:flex;flex-direction:column-reverse;justify-content:flex-end;background:var(--raised);
padding:.8rem 1rem}
.figures dt{color:var(--soft);font-size:.88rem;line-height:1.35}
.figures dd{margin:0;font-size:1.5rem;line-height:1.3;font-variant-numeric:tabular-nums}
.contents{margin-top:1.6rem}
.contents ol{display:flex;flex-wrap:wrap;gap:.2rem 1.6rem;list-style:none;margin:0;padding:0}
.contents a,.legend,summary{font-size:.98rem}
.scroll{overflow-x:auto;margin:1.1rem 0;background:var(--raised);border:1px solid var(--rule);border-radius:10px;
contain:inline-size}
table{border-collapse:collapse;width:100%;font-size:.92rem;line-height:1.42;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:.75rem .7rem .5rem;color:var(--soft);font-size:.9rem;position:sticky;left:0;
max-width:calc(100vw - 3rem)}
th,td{padding:.42rem .7rem;overflow-wrap:break-word;text-align:left;vertical-align:top}
thead th{font-weight:600;color:var(--soft);font-size:.84rem;vertical-align:bottom;border-bottom:1px solid var(--rule)}
tbody th{font-weight:600;white-space:nowrap}
tbody tr+tr>*{border-top:1px solid var(--rule)}
tbody tr:hover>*{background:var(--wash)}
.n{text-align:right;white-space:nowrap}
thead .n{white-space:normal;min-width:6.2rem}
.words{min-width:11rem;overflow-wrap:anywhere}
.plain th{font-weight:400;white-space:normal;min-width:13rem}
.nowrap{white-space:nowrap}
td code,th code{white-space:nowrap}
.digest{display:block;max-width:17ch;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;background:none;padding:0}
.soft,small{color:var(--soft)}
tbody th.soft{font-weight:400}
small{font-size:.86em}
.best{font-weight:700}
.noise{color:var(--soft);font-style:italic}
@media (min-width:48rem){tbody th{position:sticky;left:0;background:var(--raised)}}
.heat1{background:var(--h1)}.heat2{background:var(--h2)}.heat3{background:var(--h3)}
tbody tr:hover>@media (min-width:48rem){tbody th{position:sticky;left:0;background:var(--raised)}}
.heat1{background:var(--h1)}tbody tr:hover>.heat2{background:var(--h2)}
tbody tr:hover>.heat3{background:var(--h3)}
.bar{display:block;width:14rem;height:1.2rem;border-radius:4px;background:var(--wash);margin-top:.1rem}
.bar rect,.key rect{fill:currentColor}
.key{width:.9rem;height:.9rem;flex:none}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.3rem;list-style:none;margin:1rem 0 .3rem;padding:0}
.legend li{display:flex;align-items:center;gap:.45rem}
.legend svg{width:1.75rem;height:.9rem;flex:none}
.legend .key{width:.9rem}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr));gap:1.1rem;
margin:.6rem 0 1.1rem}
figure{margin:0;background:var(--raised);border:1px solid var(--rule);border-radius:10px;padding:.7rem .7rem .5rem;
min-width:0}
figcaption{color:var(--soft);font-size:.9rem;padding:0 .2rem .5rem}
figure svg{display:block;width:100%;height:auto;font:12px Inter,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
details{margin:.9rem 0}
summary{cursor:pointer;color:var(--accent);width:fit-content;padding:.15rem .2rem}
blockquote{margin:1rem 0;padding:.1rem 0 .1rem 1.2rem;border-left:3px solid var(--rule);max-width:44rem}
footer{margin-top:4.5rem;padding-top:1.2rem;padding-bottom:3rem;color:var(--soft);font-size:.95rem}
@media (max-width:40rem){body{font-size:1rem}header{padding-top:2rem}section{margin-top:3rem}h2{font-size:1.6rem}
.bar{width:9rem}th,td{padding:.4rem .6rem}.figures{grid-template-columns:1fr 1fr}
.figures dd{font-size:1.25rem}}
@media print{.scroll{overflow:visible}.digest{max-width:none;white-space:normal}}
"""


def style_sheet() -> str:
    """The rules of the page and those of its charts."""
    return f"{STYLE}{sheet()}\n"
