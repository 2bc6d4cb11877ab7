"""Public evaluation sets by name: where clip-benchmark finds each, and which files must be there.

Nothing is ever downloaded: most of these sets may only be had from their owners, under terms that a person accepts.
"""

from dataclasses import dataclass
from typing import Literal

CROSSMODAL = "crossmodal3600"
LANGUAGES = (
    *("ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr", "he", "hi", "hr", "hu", "id", "it"),
    *("ja", "ko", "mi", "nl", "no", "pl", "pt", "quz", "ro", "ru", "sv", "sw", "te", "th", "tr", "uk", "vi", "zh"),
)
"""Languages of Crossmodal-3600 (Thapliyal et al. 2022, https://arxiv.org/abs/2205.12522)."""
Reader = Literal["classes", "captions", "urban"]


@dataclass(frozen=True, slots=True)
class Preset:
    """One public set.

    Attributes:
        dataset: Its name in clip-benchmark; empty where we read it ourselves.
        reader: What its samples are.
        places: Files and folders that must be below the root; ``{language}`` is filled in.
        hint: Where to get them.
        languages: Languages to choose from; empty where there is no choice.
        packages: What must be installed beside clip-benchmark.
    """

    dataset: str
    reader: Reader
    places: tuple[str, ...]
    hint: str
    languages: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


_FOLDERS = "the unpacked archive, one folder per WordNet id"
_SINGLE = {
    "imagenet1k": Preset(
        "imagenet1k",
        "classes",
        ("val", "meta.bin"),
        "https://image-net.org/download (ILSVRC2012), prepared by torchvision.datasets.ImageNet",
    ),
    "imagenetv2": Preset(
        "imagenetv2",
        "classes",
        ("ImageNetV2-matched-frequency",),
        "https://huggingface.co/datasets/vaishaal/ImageNetV2, imagenetv2-matched-frequency-format-val renamed",
    ),
    "imagenet_r": Preset("imagenet-r", "classes", (), f"https://github.com/hendrycks/imagenet-r, {_FOLDERS}"),
    "imagenet_a": Preset("imagenet-a", "classes", (), f"https://github.com/hendrycks/natural-adv-examples, {_FOLDERS}"),
    "imagenet_sketch": Preset(
        "imagenet_sketch", "classes", (), f"https://github.com/HaohanWang/ImageNet-Sketch, {_FOLDERS}"
    ),
    "cifar10": Preset("cifar10", "classes", ("cifar-10-batches-py",), "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "cifar100": Preset("cifar100", "classes", ("cifar-100-python",), "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "flickr30k": Preset(
        "flickr30k",
        "captions",
        ("flickr30k_test_karpathy.txt",),
        "the pictures of https://shannon.cs.illinois.edu/DenotationGraph, and the list of the Karpathy split from "
        "https://github.com/mehdidc/retrieval_annotations/releases",
    ),
    "mscoco_captions": Preset(
        "mscoco_captions",
        "captions",
        ("val2014", "coco_test_karpathy.json"),
        "https://cocodataset.org (val2014), and the Karpathy split from "
        "https://github.com/mehdidc/retrieval_annotations/releases",
        packages=("pycocotools",),
    ),
    CROSSMODAL: Preset(
        CROSSMODAL,
        "captions",
        ("xm3600/images", "xm3600/captions.jsonl"),
        "https://google.github.io/crossmodal-3600",
        languages=LANGUAGES,
    ),
    "urban1k": Preset(
        "", "urban", ("image", "caption"), "https://huggingface.co/datasets/BeichenZhang/Urban1k, unpacked"
    ),
}
_VTAB_FOLDERS = {
    "caltech101": "caltech101",
    "cifar100": "cifar100",
    "clevr_count_all": "clevr",
    "clevr_closest_object_distance": "clevr",
    "diabetic_retinopathy": "diabetic_retinopathy_detection",
    "dmlab": "dmlab",
    "dsprites_label_orientation": "dsprites",
    "dsprites_label_x_position": "dsprites",
    "dtd": "dtd",
    "eurosat": "eurosat",
    "flowers": "oxford_flowers102",
    "kitti_closest_vehicle_distance": "kitti",
    "pcam": "patch_camelyon",
    "pets": "oxford_iiit_pet",
    "resisc45": "resisc45",
    "smallnorb_label_azimuth": "smallnorb",
    "smallnorb_label_elevation": "smallnorb",
    "svhn": "svhn_cropped",
}
_VTAB = {
    f"vtab_{name}": Preset(
        f"vtab/{name}",
        "classes",
        (folder,),
        "tensorflow_datasets, prepared beforehand",
        packages=("task_adaptation", "tensorflow_datasets"),
    )
    for name, folder in _VTAB_FOLDERS.items()
}
PRESETS = {**_SINGLE, **_VTAB}
"""Name on the command line -> set."""
