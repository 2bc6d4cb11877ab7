"""The README.md of an exported model: a Hugging Face model card that says how to load it and what it was made from."""

from typing import Any

from jinja2 import Environment, StrictUndefined

_CARD = """---
library_name: {{ "clipfoundry" if frozen_text else "open_clip" }}
pipeline_tag: zero-shot-image-classification
license: apache-2.0
tags:
- clip
- clipfoundry
{% if holdout -%}
model-index:
- name: {{ name }}
  results:
  - task:
      type: image-text-retrieval
    dataset:
      name: {{ run.dataset }}, training pairs kept out of training
      type: {{ run.dataset }}
      revision: {{ inputs.valid }}
    metrics:
{%- for metric, value in holdout.items() if metric != "step" %}
    - type: {{ metric.removeprefix("holdout/") }}
      value: {{ value }}
{%- endfor %}
{% endif -%}
---
# {{ name }}

A language-image model pretrained by clipfoundry with the recipe `{{ run.recipe }}` (method `{{ recipe.method.kind }}`)
on the data set `{{ run.dataset }}` (policy `{{ run.policy }}`), seed {{ run.seed }}.

{% if frozen_text -%}
It has no text tower: its pictures are compared with embeddings of a frozen language model, which is not in this folder.
`clipfoundry_config.json` names that model and the slots of text that training saw
{{- ";\nthe tensor `slot_means` is what was taken off their rows" if frozen_text.center }}.

```python
from pathlib import Path

from training.models.frozen_export import load_export

export = load_export(Path("PATH/TO/THIS/FOLDER"))
image_features = export.encode_images(export.preprocess(picture)[None])  # unit norm
```
{%- else -%}
```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:PATH/TO/THIS/FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:PATH/TO/THIS/FOLDER")
```
{%- endif %}

| | |
| --- | --- |
| training pairs | {{ num_pairs }} |
| samples seen | {{ recipe.budget.samples_seen }} |
| global batch | {{ recipe.budget.batch_size }} |
| peak learning rate | {{ recipe.optim.lr }} |
| precision | {{ recipe.precision }} |
{% for input, version in inputs.items() -%}
| version of `{{ input }}` data | `{{ version }}` |
{% endfor %}
{% if holdout -%}
On {{ recipe.holdout.pairs }} pairs of the training data that were kept out of training: contrastive loss
{{ holdout["holdout/loss"] }}, R@1 among them {{ holdout["holdout/image_to_text_r1"] }} from image to text and
{{ holdout["holdout/text_to_image_r1"] }} from text to image.

{% endif -%}
The complete config is in `config.json`, checksums and inputs are in `manifest.json`; scores are in the project's
`reports/leaderboard.html`.

**Use and limits.** Made for research on pretraining. It knows what its training pairs show and nothing else; it has not
been tested for bias or safety. The licence above covers the weights and this card; the data set's own card names the
licences of the pictures and captions.
"""


def model_card(
    name: str, config: dict[str, Any], inputs: dict[str, str], num_pairs: int, holdout: dict[str, float]
) -> str:
    """Write the card.

    Args:
        name: The run.
        config: ``{"run": ..., "recipe": ...}`` as resolved.
        inputs: Input name -> version.
        num_pairs: Training pairs.
        holdout: Scores of the exported weights on held-out pairs, empty without such pairs.

    Returns:
        Markdown with front matter; the same arguments give the same text.
    """
    template = Environment(undefined=StrictUndefined, autoescape=False).from_string(_CARD)
    text = config["recipe"]["towers"].get("text", {})
    frozen_text = text if text.get("kind") == "frozen" else None
    facts = {"name": name, "num_pairs": num_pairs, "inputs": inputs, "holdout": holdout, "frozen_text": frozen_text}
    return template.render(**facts, **config)
