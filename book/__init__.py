"""What chapters import beside einet: style of figures, drawn house numbers, results, and what is made of them.

    from book import figures, origin

A chapter finds this package, wherever its kernel runs, once the project is installed by `pip install -e .`.
"""
