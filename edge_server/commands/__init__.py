"""The subcommands of the command line. Nothing else prints."""
