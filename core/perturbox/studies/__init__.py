"""Studies: many models × attacks × cases × limits, resumable, ending in tables and a page.

    read_study(file)            the typed study; refuses with the line that is wrong
    run_study(study, out)       carries on where an earlier run ended

`design` is the file's form, `plan` counts what it asks for, `work` does one piece of it in a worker, `ledger` keeps
what is done, `drive` hands pieces to workers, `tables` makes the Parquet files, `analysis` the numbers of the page,
`checks` what the evaluation can't carry, `page` the report. docs/studies.md is the manual.
"""
