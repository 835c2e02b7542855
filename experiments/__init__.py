"""Command lines for what takes longer than a page, and the only writers of book/results and book/models.

    debd/     Table 1: twenty binary data sets        python experiments/debd.py
    images/   Section 4.2: mixtures on images         python experiments/images.py
    race/     Figures 3 and 6: the race on a CPU      python experiments/efficiency.py, and the floor under it: floor.py
              on a GPU                                python experiments/gpu.py
    records   results: read, written, and said        provenance: where a number comes from

The scripts beside these folders are their command lines, by the names that records and chapters know them by. All else
here is a script of its own. Run them from the checkout's root, with einet installed by `pip install -e .`, which makes
`experiments` and `book` importable as well; from any other Python with `PYTHONPATH=.`.
"""
