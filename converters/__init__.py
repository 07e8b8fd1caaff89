if __name__ != "qformat.converters":
    raise ImportError("this package is qformat.converters; the name `converters` is only a folder")
