"""How views lie about their teacher: angles and gates over epochs, offsets of their features, calibration."""
