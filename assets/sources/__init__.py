"""The table of data sources: the ``kind`` in params.yaml -> dotted name of the class, imported on use."""

SOURCES = {
    "emoji_scenes": "assets.sources.emoji_scenes.source:EmojiScenes",
    "folder": "assets.sources.folder.source:Folder",
    "webdataset": "assets.sources.webdataset.source:WebDataset",
}
