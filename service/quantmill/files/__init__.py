"""Files: content-addressed blobs, manifests, artifacts as folders. Bytes appear whole or not at all."""
