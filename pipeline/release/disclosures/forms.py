"""The forms of both summaries: their parts, headings and names of fields, in their order.

A part has a heading, a place in the tree of `summary`, and the fields there, each by its name in the form with its key.
"""

Part = tuple[str, str, dict[str, str]]
EU: list[Part] = [
    (
        "Version",
        "",
        {
            "Version of the Summary": "version",
            "Status": "status",
            "Last update": "last_update",
            "Authoritative copy": "document.address",
            "All versions, and where changes are announced": "document.versions",
            "Changes from the previous version": "document.changes",
        },
    ),
    ("1. General information", "", {}),
    (
        "1.1. Provider identification",
        "general_information.provider_identification",
        {
            "Provider name and contact details": "provider_name_and_contact",
            "Authorised representative name and contact details": "authorised_representative_name_and_contact",
        },
    ),
    (
        "1.2. Model identification",
        "general_information.model_identification",
        {
            "Versioned model name(s)": "versioned_model_names",
            "Further documentation": "documentation",
            "Model dependencies": "model_dependencies",
            "Date of placement of the model on the Union market": "date_of_placement_on_union_market",
        },
    ),
    (
        "1.3. Modalities, overall training data size and other characteristics",
        "general_information",
        {
            "Modality": "boxes.modality",
            "Training data size (text)": "boxes.size",
            "Types of content (text)": "modalities.0.types_of_content",
            "Latest date of data acquisition/collection for model training": "latest_data_collection_date",
            "The model is continuously trained on new or dynamic data after this date": (
                "continuously_trained_on_new_data"
            ),
            "Description of the linguistic characteristics of the overall training data": "linguistic_characteristics",
            "Other relevant characteristics of the overall training data": "other_characteristics",
            "Additional comments (optional)": "additional_comments",
        },
    ),
    ("2. List of data sources", "", {}),
    (
        "2.1. Publicly available datasets",
        "data_sources.publicly_available_datasets",
        {
            "Have you used publicly available datasets to train the model?": "used",
            "Modality(ies) of the content covered by the datasets concerned": "modalities_covered",
            "List of large publicly available datasets": "large_datasets",
            "General description of other publicly available datasets not listed above": (
                "other_datasets_general_description"
            ),
            "Additional comments (optional)": "additional_comments",
        },
    ),
    ("2.2. Private non-publicly available datasets obtained from third parties", "", {}),
    (
        "2.2.1. Datasets commercially licensed by rightsholders or their representatives",
        "data_sources.private_third_party_datasets.licensed",
        {
            "Have you concluded transactional commercial licensing agreement(s)?": "has_licensing_agreements",
            "Description": "details",
        },
    ),
    (
        "2.2.2. Private datasets obtained from other third parties",
        "data_sources.private_third_party_datasets.other_third_party",
        {"Have you obtained private datasets from third parties?": "obtained", "Description": "general_description"},
    ),
    (
        "2.3. Data crawled and scraped from online sources",
        "data_sources.crawled_data",
        {
            "Were crawlers used by you or on your behalf?": "crawlers_used",
            "Description": "content_and_sources_description",
        },
    ),
    (
        "2.4. User data",
        "data_sources.user_data",
        {
            "Was data from user interactions with the AI model used to train the model?": "model_interaction_data_used",
            "Was data from user interactions with your other services or products used?": (
                "other_product_interaction_data_used"
            ),
            "Description": "services_or_products_description",
        },
    ),
    (
        "2.5. Synthetic data",
        "data_sources.synthetic_data",
        {
            "Was synthetic AI-generated data created by you or on your behalf to train the model?": "used",
            "Description": "other_generating_models_description",
        },
    ),
    (
        "2.6. Other sources of data",
        "data_sources.other_sources",
        {
            "Have data sources other than those of Sections 2.1 to 2.5 been used to train the model?": "used",
            "Description": "description",
        },
    ),
    ("3. Data processing aspects", "", {}),
    (
        "3.1. Respect of reservation of rights from text and data mining exception or limitation",
        "data_processing_aspects.tdm_reservation_respect",
        {
            "Are you a Signatory to the Code of Practice for general-purpose AI models?": (
                "is_code_of_practice_signatory"
            ),
            "Measures implemented to respect reservations of rights": "measures_description",
            "Additional comments (optional)": "additional_comments",
        },
    ),
    (
        "3.2. Removal of illegal content",
        "data_processing_aspects.illegal_content_removal",
        {"General description of measures taken": "measures_description"},
    ),
    (
        "3.3. Other information (optional)",
        "data_processing_aspects",
        {"Personal data": "other_information", "Other relevant information": "declared_information"},
    ),
]
"""The template for Article 53(1)(d), C(2025) 5235."""
CALIFORNIA: list[Part] = [
    ("1. Sources or owners of the datasets", "ab2013", {"Datasets": "owners"}),
    ("2. How the datasets further the intended purpose", "ab2013", {"Answer": "intended_purpose_description"}),
    (
        "3. Number of data points",
        "general_information",
        {"Text": "modalities.0.size_range", "Exactly": "additional_comments"},
    ),
    ("4. Types of data points", "general_information", {"Text": "modalities.0.types_of_content"}),
    (
        "5. Copyright, trademark, patent, public domain",
        "ab2013.ip_status",
        {
            "Copyrighted content": "includes_copyrighted_content",
            "Trademarked content": "includes_trademarked_content",
            "Patented content": "includes_patented_content",
            "Content in the public domain": "includes_public_domain_content",
            "Comments": "additional_comments",
        },
    ),
    (
        "6. Purchased or licensed datasets",
        "data_sources.private_third_party_datasets.licensed",
        {"Purchased or licensed by agreement": "has_licensing_agreements", "Description": "details"},
    ),
    (
        "7. Personal information",
        "",
        {
            "Included": "ab2013.includes_personal_information",
            "What was replaced": "data_processing_aspects.other_information",
        },
    ),
    ("8. Aggregate consumer information", "ab2013", {"Included": "includes_aggregate_consumer_information"}),
    ("9. Cleaning, processing or other modification", "ab2013", {"Answer": "data_cleaning_description"}),
    (
        "10. Period of collection",
        "",
        {
            "Datasets": "ab2013.periods",
            "Newest data": "general_information.latest_data_collection_date",
            "Collection is ongoing": "general_information.continuously_trained_on_new_data",
        },
    ),
    ("11. First use in development", "ab2013", {"Date": "first_used_in_development_date"}),
    (
        "12. Synthetic data generation",
        "data_sources.synthetic_data",
        {"Used": "used", "Description": "other_generating_models_description"},
    ),
]
"""The items of California's AB 2013, section 3111(a)."""
DATASET = {
    "link": "link",
    "type of content": "content",
    "modality": "modality",
    "languages": "languages",
    "licence": "license",
    "period of collection": "period",
    "part that was selected": "description",
    "SHA-256 of what was fetched": "sha256",
}
