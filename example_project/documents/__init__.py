"""The document side of the example: where documents are kept, and the model that reads them."""
