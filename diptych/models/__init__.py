"""Pure single-device modules, one folder a family: tensors in, tensors out."""
