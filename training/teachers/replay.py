"""Views that a teacher has seen before: which of them a visit shows, and how the loader cuts it again."""

from dataclasses import dataclass, replace

from training.data.transforms import SampleDraws
from training.teachers.rows import TeacherRows


@dataclass(frozen=True, slots=True)
class Replay:
    """What the loader needs of a teacher's cache.

    Attributes:
        rows: The teacher's features of each pair's views, its whole image and its caption.
        seed: Of the cache: view v of a pair is what its draws in epoch v would give with this seed.
        whole: Whether whole images are shown, as to held-out pairs.
    """

    rows: TeacherRows
    seed: int
    whole: bool = False

    def of_whole_images(self) -> "Replay":
        """Return the same for pairs whose images are shown whole."""
        return replace(self, whole=True)

    def slot(self, seed: int, epoch: int, key: str) -> int:
        """Choose the view of a visit: in each K epochs every view once, beginning with a random one.

        Args:
            seed: Of the run.
            epoch: Of the visit.
            key: Of the pair.
        """
        views = self.rows.views
        if self.whole:
            return views
        return (SampleDraws(seed, epoch // views, key).seed + epoch) % views

    def draws(self, slot: int, key: str) -> SampleDraws:
        """Return the draws that the teacher's view was cut with.

        Args:
            slot: From :meth:`slot`.
            key: Of the pair.
        """
        return SampleDraws(self.seed, slot, key)
