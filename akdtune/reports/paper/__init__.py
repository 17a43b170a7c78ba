"""A paper's table: methods of several studies against pairs of teacher and student, and which differences stand."""
