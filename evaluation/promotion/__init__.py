"""Champions and challengers: whether the model of a run may take the place of the champion."""
