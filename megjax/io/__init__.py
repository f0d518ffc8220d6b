"""Files: replaced atomically, tensors read without pickle."""
