"""Evaluation of exported models. Table: evaluator name -> ``module:class``, resolved on use."""

EVALUATORS = {
    "zero_shot": "evaluation.zero_shot:ZeroShot",
    "retrieval": "evaluation.retrieval:Retrieval",
    "caption_retrieval": "evaluation.caption_retrieval:CaptionRetrieval",
    "localisation": "evaluation.localisation:Localisation",
    "words": "evaluation.word_truth:Words",
    "linear_probe": "evaluation.linear_probe:LinearProbe",
    "nearest_neighbours": "evaluation.nearest_neighbours:NearestNeighbours",
}
