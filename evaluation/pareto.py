"""What cannot be had smaller without losing score, nor better without growing."""

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the places of the points that no other beats: none is as cheap and as good, and better in one of both.

    Args:
        points: Cost, lower is better, and score, higher is better.

    Returns:
        Places in ``points``, by rising cost; equal points are all in or all out.
    """
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1])):
        if not front or points[place][1] > points[front[-1]][1] or points[place] == points[front[-1]]:
            front.append(place)
    return front
