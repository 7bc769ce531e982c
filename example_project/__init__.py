"""An example: documents are uploaded, and three subscribers read each of them."""
