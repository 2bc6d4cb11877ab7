"""The README.md of an exported model: a Hugging Face model card that says how to load it and what it was made from."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined

from training.models.compact import describe_cut
from training.models.export_files import COMPACT

_CARD = """---
library_name: {{ "clipfoundry" if frozen_text or cut else "open_clip" }}
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
{{- " `vocabulary.json` has the words that the features stand for." if words }}
{{- " Trained adapters of that model (LoRA) are among the weights." if frozen_text.get("lora") }}

```python
from pathlib import Path

from training.models.frozen_export import load_export

export = load_export(Path("PATH/TO/THIS/FOLDER"))
image_features = export.encode_images(export.preprocess(picture)[None])  # unit norm
```
{%- elif cut -%}
Its towers were cut to different numbers of heads and MLP units in each layer, which open_clip has no config for.
`clipfoundry_config.json` holds these numbers, and the project's own loader reads them:

```python
from pathlib import Path

from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2

from training.models.dense_export import load_dense

model, config, preprocess_cfg = load_dense(Path("PATH/TO/THIS/FOLDER"))
preprocess = image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)
tokenizer = SimpleTokenizer(context_length=config["text_cfg"].get("context_length", 77))
```

| tower | width | heads, by layer | MLP units, by layer |
| --- | --- | --- | --- |
{% for side, (before, after) in cut.items() -%}
| {{ side }} | {{ after.hidden }} of {{ before.hidden }}
{%- for name in ("heads", "units") %} | {{ after[name] | join(", ") }} of {{ before[name][0] }}{% endfor %} |
{% endfor %}
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
    name: str,
    config: dict[str, Any],
    inputs: dict[str, str],
    num_pairs: int,
    holdout: dict[str, float],
    model_config: Mapping[str, Any] | None = None,
) -> str:
    """Write the card.

    Args:
        name: The run.
        config: ``{"run": ..., "recipe": ...}`` as resolved.
        inputs: Input name -> version.
        num_pairs: Training pairs.
        holdout: Scores of the exported weights on held-out pairs, empty without such pairs.
        model_config: Of the exported model; only that of a model whose towers were cut changes the card.

    Returns:
        Markdown with front matter; the same arguments give the same text.
    """
    template = Environment(undefined=StrictUndefined, autoescape=False).from_string(_CARD)
    text = config["recipe"]["towers"].get("text", {})
    frozen_text = text if text.get("kind") == "frozen" else None
    head = config["recipe"]["towers"].get("head") or {}
    words = frozen_text is not None and "text_rank" in head  # of a head over words
    cut = describe_cut(model_config) if model_config is not None and COMPACT in model_config else None
    facts = {"name": name, "num_pairs": num_pairs, "inputs": inputs, "holdout": holdout}
    return template.render(**facts, frozen_text=frozen_text, words=words, cut=cut, **config)
