"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""


class InputError(ValueError):
    """Bad input. The message is one line that names the value and what is allowed.

    The command line prints it and exits with code 2; every other exception keeps its traceback.
    """
