"""What each figure of `evaluate score` means, in plain words: how to read it, its trap, and its paper."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Meaning:
    """The explanation of one figure."""

    label: str
    group: str
    """The part of the page: `quality`, `words`, `copies`."""
    better: str
    """Which way is better, for people."""
    meaning: str
    trap: str
    paper: str = ""
    is_share: bool = False
    """Whether the value is a share, shown in percent."""
    control: str = "other real music"
    """What the control is."""


MEANINGS = {
    "kid": Meaning(
        "KID", "quality", "lower is better",
        "How far the clips as a set are from real music, as the embedder hears them. 0: the two sets cannot be told apart.",
        "Only values with the same embedder and the same real clips compare, and only differences larger than the interval "
        "count. It says nothing about single clips, and nothing about captions.",
        "Bińkowski et al. 2018, arXiv:1801.01401",
    ),
    "kad": Meaning(
        "KAD", "quality", "lower is better",
        "The same question as KID with a kernel that looks at near neighbours.",
        "The width of its kernel comes from the real clips: another set of them gives another scale.",
        "Chung et al. 2025, arXiv:2502.15602",
    ),
    "fad": Meaning(
        "FAD", "quality", "lower is better",
        "The distance between two bell curves fitted to the clips and to real music; the figure that most papers give.",
        "It grows as clips get fewer: below 1,000 it mostly measures how many there are. Prefer KID.",
        "Kilgour et al. 2019, arXiv:1812.08466",
    ),
    "fad_infinity": Meaning(
        "FAD∞", "quality", "lower is better",
        "FAD extrapolated to endlessly many clips, which removes most of that error.",
        "The extrapolation itself is uncertain with few clips; it can come out below 0.",
        "Gui et al. 2024, arXiv:2311.01616",
    ),
    "density": Meaning(
        "Density", "quality", "near the control is better",
        "Fidelity: how many real neighbourhoods a clip falls into, on average.",
        "A model that always plays the one most typical clip has a high density; look at coverage too.",
        "Naeem et al. 2020, arXiv:2002.09797",
    ),
    "coverage": Meaning(
        "Coverage", "quality", "higher is better",
        "Diversity: the share of real clips that have a generated one in their neighbourhood.",
        "It needs about as many clips as real ones: with fewer it cannot reach 100 %.",
        "Naeem et al. 2020, arXiv:2002.09797", is_share=True,
    ),
    "agreement": Meaning(
        "Agreement with captions", "words", "higher is better",
        "How often what is heard in a clip is what its caption says.",
        "Only words that the real captions use often enough are judged. The control tells how much is chance.",
        is_share=True, control="shuffled captions",
    ),
    "retrieval": Meaning(
        "Caption found among 16", "words", "higher is better",
        "How often a clip fits its own caption better than 15 others.",
        "Captions that say nearly the same cannot be told apart by anybody.",
        is_share=True, control="shuffled captions",
    ),
    "clap_score": Meaning(
        "CLAP score", "words", "higher is better",
        "The similarity of clip and caption in a space that was trained on both.",
        "Its scale depends on the weights; only compare with the control and with other models of the same data.",
        "Wu et al. 2023, arXiv:2211.06687", control="shuffled captions",
    ),
    "tempo": Meaning(
        "Tempo", "words", "higher is better",
        "How often the measured tempo is within 4 % of the one that the caption names.",
        "Measuring tempo fails on music without clear beats, real music included.",
        is_share=True, control="shuffled captions",
    ),
    "tempo_multiples": Meaning(
        "Tempo, halves and doubles too", "words", "higher is better",
        "The same, where half and double the tempo count as right: listeners disagree about these as well.",
        "Chance is higher here: look at the control.", is_share=True, control="shuffled captions",
    ),
    "key": Meaning(
        "Key", "words", "higher is better",
        "How often the measured key is the one that the caption names.",
        "Relative keys share their notes, and are confused in real music too.",
        is_share=True, control="shuffled captions",
    ),
    "copies": Meaning(
        "Copies", "copies", "lower is better",
        "The share of clips that are nearer to a training slice than different pieces of real music are to one another.",
        "A flag is a reason to listen to the pair, not a verdict; the control is how many false alarms to expect.",
        is_share=True, control="false alarms to expect",
    ),
}  # fmt: skip
"""By the name of the row."""
