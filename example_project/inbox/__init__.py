"""Documents come in by a form or by a webhook, and three subscribers read each of them."""
