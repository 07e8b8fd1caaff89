"""One versioned, memory-mappable container for every quantization method."""
