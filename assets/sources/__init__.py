"""The table of data sources: the ``kind`` in params.yaml -> dotted name of the class, imported on use."""

SOURCES = {
    "emoji_scenes": "assets.sources.emoji_scenes.source:EmojiScenes",
    "folder": "assets.sources.folder.source:Folder",
    "huggingface": "assets.sources.huggingface.source:HuggingFace",
    "url_table": "assets.sources.url_table.source:UrlTable",
    "webdataset": "assets.sources.webdataset.source:WebDataset",
}
