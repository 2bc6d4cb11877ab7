"""Table of methods: kind -> dotted name of the class, resolved on use."""

METHODS = {
    "aclip": "training.methods.aclip:AClip",
    "clip": "training.methods.clip:Clip",
    "distill_affinity": "training.methods.distill:Distill",
    "distill_auto": "training.methods.distill_auto:DistillAuto",
    "flame": "training.methods.flame:Flame",
    "lexvla": "training.methods.lexvla:LexVla",
    "protoclip": "training.methods.protoclip:ProtoClip",
    "random_mask": "training.methods.random_mask:RandomMask",
    "siglip": "training.methods.siglip:SigLip",
    "slip": "training.methods.slip:Slip",
}
