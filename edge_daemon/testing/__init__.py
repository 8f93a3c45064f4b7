"""Public fakes, the contract tests of the seams, and the virtual PLC. Never imported at run time."""
