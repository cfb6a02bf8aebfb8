"""The names of the sides."""

OURS = "qwen-conv"
FRAMEWORK = "framework alone"

SDK = "bare SDK"
DICTS = "bare SDK, dicts"
BY_HAND = "stock class, by hand"
WHOLE_LIST = "stock class, whole list"

STOCK = "stock class"
