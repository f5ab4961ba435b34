"""Bodies of the subcommands of ``vaecausal`` that are more than a call of the library."""
