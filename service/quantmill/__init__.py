"""quantmill compresses models, proves the result, and remembers how it was made."""
