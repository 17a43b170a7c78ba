"""akdtune: finds out what in a knowledge-distillation recipe really works."""

__version__ = "0.1.0"
