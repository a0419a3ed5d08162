"""Machinery of this package that other packages use. It is not part of the public interface."""

from funcnet.checkpoint._atomic import replace_file as replace_file
from funcnet.checkpoint._conversion import prepare_conversion as prepare_conversion
from funcnet.checkpoint._conversion import run_conversion as run_conversion
from funcnet.checkpoint._convert_options import ConvertOptions as ConvertOptions
from funcnet.checkpoint._dtypes import dtype_name as dtype_name
from funcnet.checkpoint._load import select_part as select_part
from funcnet.checkpoint._load import select_parts as select_parts
from funcnet.checkpoint._save import check_text_destination as check_text_destination
