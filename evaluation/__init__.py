"""Evaluation of exported models. Table: evaluator name -> ``module:class``, resolved on use."""

EVALUATORS = {
    "zero_shot": "evaluation.zero_shot:ZeroShot",
    "retrieval": "evaluation.retrieval:Retrieval",
    "caption_retrieval": "evaluation.caption_retrieval:CaptionRetrieval",
    "multi_caption": "evaluation.multi_caption:MultiCaption",
    "concept_scores": "evaluation.concepts.scores:ConceptScores",
    "composition": "evaluation.composition.evaluator:Composition",
    "robustness": "evaluation.robustness:Robustness",
    "localisation": "evaluation.localisation:Localisation",
    "words": "evaluation.word_truth:Words",
    "linear_probe": "evaluation.linear_probe:LinearProbe",
    "nearest_neighbours": "evaluation.nearest_neighbours:NearestNeighbours",
    "tuning": "evaluation.tuning.evaluator:Tuning",
    "spectra": "evaluation.spectra:Spectra",
}
