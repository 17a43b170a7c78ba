"""One report each: a module with `main(argv) -> int`, run as a script or as `akdtune analyze NAME RUN`."""
