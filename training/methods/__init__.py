"""Table of methods: kind -> dotted name of the class, resolved on use."""

METHODS = {
    "clip": "training.methods.clip:Clip",
    "siglip": "training.methods.siglip:SigLip",
}
