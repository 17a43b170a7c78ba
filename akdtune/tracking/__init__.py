"""What loggers get of a study's trials: Weights & Biases, TensorBoard, CSV, and runs made from what is stored."""
