"""Breast cancer patients by region, and how long they were known to live."""

import csv
import io
from functools import cache

import numpy as np

from lycia.data.datasets.description import Dataset, File
from lycia.data.datasets.finding import content_of
from lycia.data.datasets.owners import by_owner
from lycia.data.population import Examples, Population
from lycia.data.schema import Column, Schema

_YES_OR_NO = (
    "ethnicity_not hispanic or latino", "ethnicity_not reported", "race_asian", "race_black or african american",
    "race_not reported", "race_white", "ajcc_pathologic_m_MX", "ajcc_pathologic_n_N0 (i-)", "ajcc_pathologic_n_N1",
    "ajcc_pathologic_n_N1a", "ajcc_pathologic_n_N2", "ajcc_pathologic_n_N2a", "ajcc_pathologic_stage_Stage IA",
    "ajcc_pathologic_stage_Stage IIA", "ajcc_pathologic_stage_Stage IIB", "ajcc_pathologic_stage_Stage IIIA",
    "ajcc_pathologic_stage_Stage IIIC", "ajcc_pathologic_t_T1c", "ajcc_pathologic_t_T2", "ajcc_pathologic_t_T3",
    "ajcc_staging_system_edition_5th", "ajcc_staging_system_edition_6th", "ajcc_staging_system_edition_7th",
    "icd_10_code_C50.9", "morphology_8500/3", "morphology_8520/3",
    "primary_diagnosis_Infiltrating duct carcinoma, NOS", "primary_diagnosis_Lobular carcinoma, NOS",
    "prior_malignancy_yes", "synchronous_malignancy_Not Reported", "treatment_or_therapy_not reported",
    "treatment_or_therapy_yes", "tumor_stage_stage i", "tumor_stage_stage ia", "tumor_stage_stage iia",
    "tumor_stage_stage iib", "tumor_stage_stage iiia", "tumor_stage_stage iiic",
)  # fmt: skip

TCGA_BRCA = Schema(
    columns=(
        Column("age_at_index", "integer", unit="years", bounds=(0, 120)),
        *(Column(name, "category", categories=(0, 1)) for name in _YES_OR_NO),
    )
)
"""What was known of a patient, and after how many days the patient died, or was last known to live.

A label above 0 is an event: death after so many days. Any other is censored: alive after that many days, less its sign.
`events_and_days` takes the two apart. XGBoost's `survival:cox` reads the same labels.
"""

REGIONS = ("northeast", "south", "west", "midwest", "europe", "canada")

_FLAMBY = (
    "https://raw.githubusercontent.com/owkin/FLamby/edacf54d5211520583b0133d55ac39b6fda8324b"
    "/flamby/datasets/fed_tcga_brca"
)
_PATIENTS, _SPLIT = "brca.csv", "train_test_split.csv"

ABOUT_TCGA_BRCA = Dataset(
    name="tcga_brca",
    title="TCGA-BRCA, as FLamby prepared it",
    folder="tcga_brca",
    licence="open-access data of the Genomic Data Commons, whose policy forbids attempts to identify patients; "
    "prepared under MIT",
    source='Liu et al. 2018, "An integrated TCGA pan-cancer clinical data resource", Cell 173; '
    'Ogier du Terrail et al. 2022, "FLamby", arXiv:2210.04620',
    nodes="6 regions, of 64 sites that sent tissue",
    schema=TCGA_BRCA,
    loaders=("tcga_brca_by_region",),
    files=(
        File(
            _PATIENTS,
            113184,
            "07cb53423f7d579d33cfdbf2cba57b2aee75318b85866c68ce39a75b1f1ba020",
            (f"{_FLAMBY}/{_PATIENTS}",),
        ),
        File(
            _SPLIT,
            28946,
            "1249c6543a4060ff0fdaf8510fc37017755836db6c9fc5e6af96057c36510990",
            (f"{_FLAMBY}/dataset_creation_scripts/{_SPLIT}",),
        ),
    ),
)


@cache
def tcga_brca_by_region() -> Population:
    """1,088 patients by region: 311, 196, 206, 162, 162 and 51, of whom 59, 39, 22, 19, 9 and 3 died.

    The training and held-out patients of each region are those of FLamby's benchmark: 248/63, 156/40, 164/42, 129/33,
    129/33 and 40/11.

    Shapes: features (patients, 39) float32, the age and 38 answers of no or yes; labels (patients,) float32, in
      days: above 0 until death, else below 0 or 0 until last known alive. They fit `TCGA_BRCA`.
    Raises: DataError, if a file is damaged, or not here and cannot be fetched (142 kB).
    Source: Liu et al. 2018, Cell 173; prepared by Ogier du Terrail et al. 2022, "FLamby", arXiv:2210.04620.
    """
    return read_regions(content_of(ABOUT_TCGA_BRCA, _PATIENTS), content_of(ABOUT_TCGA_BRCA, _SPLIT))


def read_regions(patients: bytes, split: bytes) -> Population:
    """The patients in FLamby's two tables. One who is in no region, which the split says, is left out."""
    parts = {row["pid"]: row["fold2"].rpartition("_") for row in csv.DictReader(io.StringIO(split.decode("ascii")))}
    rows = [row for row in csv.DictReader(io.StringIO(patients.decode("ascii"))) if row["pid"] in parts]
    names = tuple(column.name for column in TCGA_BRCA.columns)
    features = np.array([[float(row[name]) for name in names] for row in rows], dtype=np.float32)
    days = np.array([float(row["T"]) for row in rows], dtype=np.float32)
    died = np.array([row["E"] == "1.0" for row in rows])
    regions = np.array([int(parts[row["pid"]][2]) for row in rows])
    held_out = np.array([parts[row["pid"]][0] == "test" for row in rows])
    labels = np.where(died, days, 0 - days)  # 0 − 0 is 0, where −0 would look like nothing known
    return by_owner(Examples(features, labels, names), regions, held_out, REGIONS.__getitem__)


def events_and_days(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each patient died, and after how many days, or for how many days a patient was known to live.

    Shapes: labels (n,), as `TCGA_BRCA` has them; returns (n,) bool and (n,).
    Example:
      >>> events_and_days(np.array([120.0, -365.0, 0.0]))
      (array([ True, False, False]), array([120., 365.,   0.]))
    """
    return labels > 0, np.abs(labels)
