"""The figures in the README, each remade by one command. Not part of the installed package."""
