"""Table of methods: kind -> dotted name of the class, resolved on use."""

METHODS = {
    "aclip": "training.methods.aclip:AClip",
    "clip": "training.methods.clip:Clip",
    "flame": "training.methods.flame:Flame",
    "protoclip": "training.methods.protoclip:ProtoClip",
    "random_mask": "training.methods.random_mask:RandomMask",
    "siglip": "training.methods.siglip:SigLip",
    "slip": "training.methods.slip:Slip",
}
