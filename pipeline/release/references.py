"""The papers that describe the architectures of the families, for whoever cites a model of a release."""

from typing import NamedTuple


class Reference(NamedTuple):
    """A paper."""

    architecture: str
    """What it describes."""
    authors: str
    """Its authors, or the first of many."""
    year: int
    """Year of its first version."""
    title: str
    """Its title."""
    identifier: str
    """Its number on arXiv."""

    @property
    def link(self) -> str:
        """Where it is."""
        return f"https://arxiv.org/abs/{self.identifier}"


MOBILELLM = Reference(
    "MobileLLM",
    "Zechun Liu, Changsheng Zhao, Forrest Iandola, Chen Lai, Yuandong Tian and others",
    2024,
    "MobileLLM: Optimizing Sub-billion Parameter Language Models for On-Device Use Cases",
    "2402.14905",
)
MOBILLAMA = Reference(
    "MobiLlama",
    "Omkar Thawakar, Ashmal Vayani, Salman Khan, Hisham Cholakkal, Rao Muhammad Anwer and others",
    2024,
    "MobiLlama: Towards Accurate and Lightweight Fully Transparent GPT",
    "2402.16840",
)
OPENELM = Reference(
    "OpenELM",
    "Sachin Mehta, Mohammad Hossein Sekhavat, Qingqing Cao, Maxwell Horton, Yanzi Jin and others",
    2024,
    "OpenELM: An Efficient Language Model Family with Open Training and Inference Framework",
    "2404.14619",
)
PYTHIA = Reference(
    "Pythia",
    "Stella Biderman, Hailey Schoelkopf, Quentin Gregory Anthony, Herbie Bradley, Kyle O'Brien and others",
    2023,
    "Pythia: A Suite for Analyzing Large Language Models Across Training and Scaling",
    "2304.01373",
)
AMBER = Reference(
    "Amber",
    "Zhengzhong Liu, Aurick Qiao, Willie Neiswanger, Hongyi Wang, Bowen Tan and others",
    2023,
    "LLM360: Towards Fully Transparent Open-Source LLMs",
    "2312.06550",
)
LLAMA_3 = Reference(
    "Llama 3.1",
    "Aaron Grattafiori, Abhimanyu Dubey, Abhinav Jauhri, Abhinav Pandey, Abhishek Kadian and others",
    2024,
    "The Llama 3 Herd of Models",
    "2407.21783",
)
OLMO_2 = Reference(
    "OLMo 2",
    "Team OLMo, Pete Walsh, Luca Soldaini, Dirk Groeneveld, Kyle Lo and others",
    2024,
    "2 OLMo 2 Furious",
    "2501.00656",
)
QWEN2 = Reference(
    "Qwen2",
    "An Yang, Baosong Yang, Binyuan Hui, Bo Zheng, Bowen Yu and others",
    2024,
    "Qwen2 Technical Report",
    "2407.10671",
)
QWEN3 = Reference(
    "Qwen3",
    "An Yang, Anfeng Li, Baosong Yang, Beichen Zhang, Binyuan Hui and others",
    2025,
    "Qwen3 Technical Report",
    "2505.09388",
)
ROPE_TO_NOPE = Reference(
    "layers without positions",
    "Bowen Yang, Bharat Venkitesh, Dwarak Talupuru, Hangyu Lin, David Cairuz and others",
    2025,
    "Rope to Nope and Back Again: A New Hybrid Attention Strategy",
    "2501.18795",
)
REFERENCES = {
    "llama": AMBER,
    "llama3": LLAMA_3,
    "mobilellm": MOBILELLM,
    "mobilellm-ls": MOBILELLM,
    "mobillama": MOBILLAMA,
    "olmo2": OLMO_2,
    "openelm": OPENELM,
    "pythia": PYTHIA,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "smollm3": ROPE_TO_NOPE,
}
"""Family of a recipe → the paper that describes it."""
