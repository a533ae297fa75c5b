"""Pure functions of parameters: encoder, shift, decoder, and what joins them."""
