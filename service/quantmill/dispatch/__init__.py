"""How a queued job reaches a worker. A message is only a wake-up: losing or repeating one does no harm."""
