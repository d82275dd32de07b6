"""`bottlenet report`: what was trained and measured, as one HTML file that loads nothing. No torch.

    run folder, evaluation, profile, bench, record --read_sources--> Source, ...      sources.py
      |-- curves: payload bytes -> accuracy             curves.py    accuracy.py draws them
      |-- runs pass by pass, naive against aware                     training.py
      |-- a sweep's trials, cut by cut                                 sweeps.py
      |-- what no figure shows                                       others.py
      |-- latency on links; the plan, and its flips                  partitions.py
      `-- bundle, folder of photos --look--> what is sent, and what goes wrong: photos.py
    Section, Figure, Table  --page--> one file          parts.py, page.py, report.html

typed.py reads JSON into dataclasses, every value checked: a report is made of files from anywhere.
"""
