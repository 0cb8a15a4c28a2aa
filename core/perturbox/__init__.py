"""How small a change of this scan makes a medical segmentation model wrong, and where?"""

__version__ = "0.1.0"
