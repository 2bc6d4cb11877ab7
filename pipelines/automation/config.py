"""The section ``automation`` of params.yaml: when models are made anew. Never hashed: it changes no output."""

import re
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from assets.section import Section, unknown

_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12), ("day of the week", 0, 7))
_PART = re.compile(r"(\*|\d+(?:-\d+)?)(?:/([1-9]\d*))?")


class AutomationConfig(Section):
    """Recurring retraining (docs/automation.md). Delivered data starts it too, see ``deliveries`` of a data set."""

    cron: str
    """When to train anew: minute, hour, day of the month, month, day of the week (0 is Sunday), in figures."""
    time_zone: str
    """Zone of the hours in ``cron``, e.g. UTC or Europe/Berlin; summer time is kept."""
    fresh_days: float = Field(gt=0, le=3660)
    """Age of raw data and champions, in days, above which the UI warns; twice that counts as a failure."""

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, value: str) -> str:
        fields = value.split()
        if len(fields) != len(_FIELDS):
            raise PydanticCustomError("cron", "wanted five fields as cron has them, e.g. 0 3 * * 1 for Mondays at 3:00")
        for field, (name, least, most) in zip(fields, _FIELDS, strict=True):
            for part in field.split(","):
                match = _PART.fullmatch(part)
                numbers = [int(number) for number in re.findall(r"\d+", match[1])] if match else []
                in_order = numbers == sorted(numbers) and all(least <= number <= most for number in numbers)
                if match is None or not in_order:
                    facts = {"name": name, "part": part, "least": least, "most": most}
                    text = "the {name} is '{part}', wanted *, or numbers from {least} to {most} such as 1, 1-5 or */2"
                    raise PydanticCustomError("cron", text, facts)
        return " ".join(fields)

    @field_validator("time_zone")
    @classmethod
    def _check_time_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            hint = unknown(value, ["UTC", *available_timezones()], "time zone").partition("; valid")[0]
            raise PydanticCustomError("zone", "{hint}; e.g. UTC or Europe/Berlin", {"hint": hint}) from error
        return value
