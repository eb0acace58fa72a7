"""Pull a Page's subscription tokens, read single ones, and export them."""
