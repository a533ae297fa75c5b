"""Data in: users' files and arrays to `PerturbationData`, named data sets, and simulated worlds.

In the order of reading, the way of a file:

    own_data, load            the doors: their arguments become one `ReadOptions` (`assemble`)
    sheet, table_files, fcs   sample sheets, and tables of one or several files
    anndata_files, tables     AnnData, in memory or in files; columns found by name
    notation, names, doses    how conditions are written, and their parts
    entries                   names, dicts or a matrix of doses, one a cell -> conditions
    condition_columns         columns of names and of doses -> conditions
    conditions                the table of distinct conditions, the control first
    feature_columns           which columns are features; `doubtful_columns`, `highly_variable`
    observations              values as float32, finite, varying
    values, scale             counts and cytometry recognised and transformed; `normalisation` of counts
    joining                   cells that join other data are on their scale
    stored                    cells that do not fit into memory
    assemble                  all of it put together; `pooled_control` and `split_column` look at the result

Then what fits ask of data (`checks`, `moments`), the public sets (`files`, `datasets`, `norman`, `norman_pairs`), and
worlds of known truth (`simulate`).
"""
