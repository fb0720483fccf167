"""What is known of every organ and lesion, a paragraph each: where it is, its shape, its structure, its look on CT and MR.

Methods embed these paragraphs with the frozen text encoder. From general radiology knowledge, in our own words. No torch.
"""

from __future__ import annotations

ORGAN_TEXTS: dict[str, str] = {
    "liver": (
        "The liver fills the right upper abdomen under the diaphragm. It is large and wedge-shaped, of even soft "
        "tissue crossed by portal and hepatic veins. On CT slightly denser than the spleen before contrast and "
        "brightest in the portal phase; on MR brighter than the spleen on T1 and darker on T2."
    ),
    "left kidney": (
        "The left kidney lies behind the peritoneum beside the upper lumbar spine, below the spleen. It is bean- "
        "shaped, with a cortex, medullary pyramids and a central fatty sinus. The cortex enhances early; on T2 MR "
        "the medulla is brighter than the cortex."
    ),
    "right kidney": (
        "The right kidney lies behind the peritoneum beside the upper lumbar spine, below the liver. It is bean- "
        "shaped, with a cortex, medullary pyramids and a central fatty sinus. The cortex enhances early; on T2 MR "
        "the medulla is brighter than the cortex."
    ),
    "spleen": (
        "The spleen lies in the left upper abdomen under the diaphragm, beside the stomach. It is oblong with a "
        "smooth convex outer side, of even lymphoid tissue full of blood. Arterial enhancement is striped, later "
        "even; on T2 MR it is brighter than the liver."
    ),
    "pancreas": (
        "The pancreas lies across the upper abdomen before the spine, from the duodenum to the splenic hilum. It is "
        "elongated and lobulated, a gland with a thin central duct. It enhances most in the late arterial phase and "
        "is bright on T1 MR with fat suppression."
    ),
    "stomach": (
        "The stomach lies in the left upper abdomen between esophagus and duodenum. It is a J-shaped bag with a "
        "folded muscular wall that holds gas, fluid and food. On CT and MR a thin enhancing wall surrounds contents "
        "of any brightness."
    ),
    "esophagus": (
        "The esophagus runs through the chest behind the trachea and heart to the stomach. It is a narrow muscular "
        "tube, mostly collapsed. On CT a small round soft-tissue ring before the spine, at times with gas; "
        "intermediate on MR."
    ),
    "gallbladder": (
        "The gallbladder hangs under the right lobe of the liver. It is pear-shaped, a thin-walled sac of bile. On "
        "CT its content has the density of water; on MR it is very bright on T2."
    ),
    "left adrenal gland": (
        "The left adrenal gland lies above and before the left kidney, beside the aorta and behind the pancreas. It "
        "is small and thin, like an inverted Y, with cortex and medulla. On CT soft tissue in fat; intermediate on "
        "MR."
    ),
    "right adrenal gland": (
        "The right adrenal gland lies above the right kidney, behind the vena cava and beside the liver. It is "
        "small and thin, like a line or an inverted V, with cortex and medulla. On CT soft tissue in fat; "
        "intermediate on MR."
    ),
    "colon": (
        "The colon frames the abdomen from the cecum at the lower right to the sigmoid at the lower left. It is a "
        "wide tube with sacculations, a thin wall and stool and gas inside. On CT the content is mottled with gas."
    ),
    "small bowel": (
        "The small bowel fills the middle of the abdomen between stomach and cecum. It is a long, narrow, coiled "
        "tube with a folded mucosa. On CT its loops hold fluid, and the wall enhances thinly; fluid is bright on T2 "
        "MR."
    ),
    "left lung": (
        "The left lung fills the left chest around the heart. It is cone-shaped with two lobes, of air spaces, "
        "bronchi and branching vessels. On CT very dark with bright vessels; nearly without signal on MR."
    ),
    "right lung": (
        "The right lung fills the right chest above the liver. It is cone-shaped with three lobes, of air spaces, "
        "bronchi and branching vessels. On CT very dark with bright vessels; nearly without signal on MR."
    ),
    "heart": (
        "The heart lies in the middle of the chest, to the left, between the lungs. It is a rounded cone of muscle "
        "around four chambers of blood. On contrast CT the chambers are bright inside a grayer myocardium."
    ),
    "aorta": (
        "The aorta leaves the heart, arches back and runs down before the spine to the pelvis. It is a round tube "
        "with a thin wall that carries arterial blood. On CT brightest in the arterial phase; flowing blood is dark "
        "on spin-echo MR."
    ),
    "inferior vena cava": (
        "The inferior vena cava runs up to the right of the aorta, behind the liver, to the heart. It is an oval, "
        "compressible tube of venous blood. On CT it brightens in the portal venous phase, often unevenly."
    ),
    "hepatic vessels": (
        "The hepatic vessels are the portal vein and hepatic veins inside and below the liver. They are branching "
        "tubes of venous blood. On CT darker than the liver before contrast, brighter in the portal phase."
    ),
    "bladder": (
        "The bladder lies low in the pelvis behind the pubic bone. It is a round or pyramidal bag of urine with a "
        "muscular wall. On CT its content is like water until contrast arrives; very bright on T2 MR."
    ),
    "prostate": (
        "The prostate lies under the bladder, before the rectum, in men. It is like a chestnut, a gland of a "
        "central and a peripheral zone. On CT even soft tissue; on T2 MR the peripheral zone is bright."
    ),
    "uterus": (
        "The uterus lies in the female pelvis between bladder and rectum. It is pear-shaped, of thick muscle around "
        "a thin cavity. On contrast CT it enhances strongly; on T2 MR bright endometrium, dark junctional zone, "
        "gray muscle."
    ),
    "ovary": (
        "The ovaries lie at the side walls of the female pelvis beside the uterus. They are oval and small, with "
        "follicles. On CT soft tissue with small dark spots; follicles are bright on T2 MR."
    ),
    "bone": (
        "Bones are the skull, spine, ribs, pelvis and the long bones of the limbs. Tubes, plates and blocks of a "
        "hard cortex around marrow. On CT the cortex is very bright; on MR the cortex is dark, fatty marrow bright "
        "on T1."
    ),
    "muscle": (
        "Muscles surround the bones of limbs, trunk and spine. They are spindles and sheets of fibers, parted by "
        "fat and fascia. On CT even, of middle density, enhancing little; on MR of low to middle signal, dark on "
        "T2."
    ),
    "fat": (
        "Fat lies under the skin and around muscles and organs. It takes the shape of the space between them, "
        "lobules of fat cells with thin septa. On CT darker than water; bright on T1 MR unless suppressed."
    ),
    "brain": (
        "The brain fills the skull. It is two folded hemispheres, brainstem and cerebellum, of gray and white "
        "matter around ventricles of fluid. On CT gray matter is slightly denser; on T1 MR white matter is "
        "brighter, on T2 darker."
    ),
    "breast": (
        "The breasts lie on the chest wall before the pectoral muscle. They are rounded, glandular tissue in fat. "
        "On CT strands of soft tissue in fat; on MR glandular tissue enhances mildly."
    ),
    "lymph node": (
        "Lymph nodes lie in chains along vessels in the neck, chest, abdomen and groin. They are small ovals with a "
        "fatty hilum. On CT soft tissue under a centimeter in short axis; intermediate on T2 MR."
    ),
    "rectum": (
        "The rectum lies in the pelvis before the sacrum, from the sigmoid to the anus. It is a tube with a layered "
        "wall inside mesorectal fat, holding stool or gas. On T2 MR the muscle layer is a dark ring."
    ),
    "thyroid": (
        "The thyroid lies low in the neck on both sides of the trachea. It is like a butterfly, a gland full of "
        "iodine. On CT bright even without contrast; slightly bright on T1 MR."
    ),
    "mediastinum": (
        "The mediastinum is the middle of the chest between the lungs. It holds heart, great vessels, trachea, "
        "esophagus, thymus and nodes in fat. On CT fat with vessels that enhance."
    ),
    "abstract": ("An imaginary organ of any shape and brightness, which exists in no patient."),
    "duodenum": (
        "The duodenum curves around the head of the pancreas from the stomach to the jejunum. It is a C-shaped tube "
        "with a folded wall, holding fluid and gas. On CT a thin enhancing wall."
    ),
    "portal and splenic vein": (
        "The splenic vein runs behind the pancreas and joins the superior mesenteric vein to form the portal vein, "
        "which enters the liver. Tubes of venous blood, brightest on CT in the portal phase."
    ),
    "celiac trunk": (
        "The celiac trunk leaves the front of the aorta below the diaphragm and divides towards liver, stomach and "
        "spleen. It is a short, narrow artery, bright on CT in the arterial phase."
    ),
    "left femur": (
        "The left femur runs from the left hip to the knee. Its head is a ball in the socket of the pelvis, a shell "
        "of cortex around spongy bone and fatty marrow. Bright on CT; marrow bright on T1 MR."
    ),
    "right femur": (
        "The right femur runs from the right hip to the knee. Its head is a ball in the socket of the pelvis, a "
        "shell of cortex around spongy bone and fatty marrow. Bright on CT; marrow bright on T1 MR."
    ),
}

LESION_TEXTS: dict[str, str] = {
    "liver tumor": (
        "A liver tumor grows inside the liver. Hepatocellular carcinoma is round or lobulated, uneven, at times "
        "with capsule or necrosis. On CT darker than liver before contrast, bright in the arterial phase and washed "
        "out later; on MR dark on T1 and moderately bright on T2."
    ),
    "kidney tumor": (
        "A kidney tumor grows from the cortex of a kidney and often bulges outwards. Renal cell carcinoma is a "
        "rounded or irregular solid mass, often with necrosis or bleeding. On CT it enhances unevenly and less than "
        "cortex; on T2 MR mixed or bright."
    ),
    "kidney cyst": (
        "A kidney cyst lies in or on the cortex of a kidney. It is round with a thin smooth wall and holds clear "
        "fluid. On CT as dark as water, even, without enhancement; on MR dark on T1 and very bright on T2."
    ),
    "pancreatic tumor": (
        "A pancreatic tumor grows in the pancreas, mostly the head. Adenocarcinoma is an irregular, scirrhous, ill- "
        "defined mass that narrows duct and vessels. On CT darker than the gland in the pancreatic phase; dark on "
        "T1 MR."
    ),
    "pancreatic cyst": (
        "A pancreatic cyst lies in the pancreas, at times joined to its duct. Mucinous or serous cysts are round or "
        "lobulated with thin walls or septa around fluid. Like water on CT; very bright on T2 MR."
    ),
    "pancreatic neuroendocrine tumor": (
        "A neuroendocrine tumor of the pancreas is a round, well-defined nodule rich in vessels. On CT brighter "
        "than the gland in the arterial phase; bright on T2 MR."
    ),
    "lung tumor": (
        "A lung tumor grows in a lung, often in an upper lobe or at the hilum. Carcinoma is an irregular, "
        "spiculated or lobulated mass that may cavitate. On CT soft tissue against dark lung, with uneven "
        "enhancement."
    ),
    "lung nodule": (
        "A lung nodule is a small round spot in a lung, up to three centimeters. Smooth if benign or metastatic, "
        "solid or ground glass. On CT soft tissue or haze against dark lung."
    ),
    "colon tumor": (
        "A colon tumor grows from the wall of the colon. It thickens the wall unevenly or rings and narrows it like "
        "an apple core, with ulcers. On CT enhancing soft tissue with strands in the fat around; intermediate on T2 "
        "MR."
    ),
    "rectal tumor": (
        "A rectal tumor grows from the wall of the rectum. It is a polypoid or ring-like thickening that may cross "
        "the muscle into mesorectal fat. On CT soft tissue; on T2 MR brighter than muscle and darker than mucosa."
    ),
    "hepatic vessel tumor": (
        "A hepatic vessel tumor is tumor in or along the portal or hepatic veins of the liver. It widens the vessel "
        "and fills it like a cast, irregularly. On CT darker than the blood around in the portal phase."
    ),
    "liver cyst": (
        "A liver cyst lies anywhere in the liver. It is round or oval with a hardly visible wall and clear fluid. "
        "On CT even and like water without enhancement; very bright on T2 MR."
    ),
    "liver hemangioma": (
        "A hemangioma of the liver is a benign tangle of blood spaces, lobulated and sharp. On CT it fills from "
        "nodules at the rim to the center; on T2 MR bright like a lamp."
    ),
    "liver metastasis": (
        "Liver metastases are spread of another cancer to the liver, often several. Round or irregular, with "
        "necrotic centers. On CT darker than liver, often with a rim that enhances; moderately bright on T2 MR."
    ),
    "spleen tumor": (
        "A tumor of the spleen is lymphoma, metastasis or angiosarcoma. Single or several rounded or irregular "
        "nodules within a spleen that may be enlarged. On CT darker than the enhanced spleen; of varied signal on "
        "MR."
    ),
    "splenic cyst": (
        "A cyst of the spleen is round, smooth and thin-walled, at times with calcium in the wall. On CT like water "
        "without enhancement; very bright on T2 MR."
    ),
    "adrenal tumor": (
        "An adrenal tumor above a kidney is carcinoma, pheochromocytoma, neuroblastoma or metastasis. Large, "
        "irregular, with necrosis, bleeding and calcium. On CT uneven and enhancing; pheochromocytoma is bright on "
        "T2 MR."
    ),
    "adrenal adenoma": (
        "An adrenal adenoma is a small, round, smooth, even nodule of an adrenal gland. Rich in fat: on CT dark "
        "before contrast with fast washout; it loses signal on opposed-phase MR."
    ),
    "gastric tumor": (
        "A gastric tumor grows from the wall of the stomach. Carcinoma thickens the wall unevenly with ulcers; a "
        "stromal tumor is a rounded mass that grows outwards. On CT enhancing soft tissue, the larger the more "
        "necrotic."
    ),
    "esophageal tumor": (
        "An esophageal tumor thickens the wall of the esophagus unevenly over a length and narrows it. On CT soft "
        "tissue around a small eccentric lumen, above which the tube is wide; moderately bright on T2 MR."
    ),
    "small bowel tumor": (
        "A tumor of the small bowel or duodenum is a thickening or nodule of the wall. Adenocarcinoma narrows, "
        "lymphoma widens, carcinoid is a bright nodule with strands in the mesentery. On CT enhancing soft tissue."
    ),
    "bladder tumor": (
        "A bladder tumor grows from the lining of the bladder into the lumen. It is papillary or a flat uneven "
        "thickening. On CT soft tissue against urine that enhances early; on T2 MR gray against bright urine."
    ),
    "gallbladder tumor": (
        "A gallbladder tumor replaces or thickens the wall of the gallbladder, often around stones, and invades the "
        "liver. Irregular and ill-defined. On CT darker than liver with uneven enhancement."
    ),
    "ovarian tumor": (
        "An ovarian tumor is a mass at the side of the pelvis, often on both sides and large. Cysts with thick "
        "septa and solid papillae. On CT mixed fluid and enhancing soft tissue; on T2 MR bright fluid with gray "
        "nodules."
    ),
    "ovarian cyst": (
        "An ovarian cyst lies at the side of the uterus. It is round, smooth and thin-walled with fluid. On CT like "
        "water; very bright on T2 MR, or bright on T1 when it has bled."
    ),
    "uterine fibroid": (
        "A fibroid is a benign muscle tumor of the uterus. Round, sharp, firm, of whorled fibers, at times "
        "calcified. On CT like the uterine muscle; dark on T2 MR."
    ),
    "uterine tumor": (
        "A uterine tumor is cancer of the endometrium or cervix. It widens the cavity or the cervix and grows into "
        "the muscle, ill-defined. On CT it enhances less than muscle; of middle signal on T2 MR."
    ),
    "prostate tumor": (
        "A prostate tumor lies mostly in the peripheral zone of the prostate. It is a small lens or an ill-defined "
        "patch. Hardly visible on CT; on MR dark on T2 with restricted diffusion and early enhancement."
    ),
    "bone tumor": (
        "A bone tumor lies in marrow or cortex of any bone. It destroys bone (lytic), makes bone (sclerotic) or "
        "both, and may grow into soft tissue. On CT darker or brighter than bone; on MR it replaces bright marrow "
        "on T1."
    ),
    "soft tissue sarcoma": (
        "A soft tissue sarcoma grows in muscle or deep fat of a limb, the pelvis or behind the peritoneum. Large, "
        "rounded or lobulated, uneven, with necrosis, bleeding or fat. On CT like muscle or darker; on T2 MR bright "
        "and mixed."
    ),
    "lipoma": (
        "A lipoma lies under the skin or in muscle. It is oval, sharp and soft, of plain fat with few thin septa. "
        "As dark as fat on CT; on MR bright on T1 and dark with fat suppression."
    ),
    "lymph node metastasis": (
        "A lymph node with metastasis or lymphoma is enlarged, round, without its fatty hilum, in chains along "
        "vessels, at times matted or necrotic. On CT soft tissue; moderately bright on T2 MR."
    ),
    "mediastinal mass": (
        "A mass of the mediastinum between the lungs is thymoma, lymphoma or germ cell tumor. Rounded or irregular "
        "around the great vessels. On CT soft tissue with uneven enhancement, fat or calcium in some."
    ),
    "brain tumor": (
        "A glioma grows within the white matter of the brain. It is irregular and ill-defined, with necrosis and "
        "edema when of high grade. On CT dark; on MR bright on T2 and FLAIR, with an irregular rim of enhancement."
    ),
    "meningioma": (
        "A meningioma grows from the meninges against the surface of the brain. It is round, sharp and broad-based "
        "with a dural tail. On CT slightly bright, at times calcified; on MR it enhances evenly and strongly."
    ),
    "brain metastasis": (
        "Brain metastases lie at the border of gray and white matter, often several. They are small and round with "
        "much edema. On contrast CT and MR they enhance as nodules or rings."
    ),
    "breast tumor": (
        "A breast tumor lies in the glandular tissue of a breast. Carcinoma is irregular and spiculated. On CT a "
        "dense enhancing nodule; on MR it enhances early and washes out."
    ),
    "breast cyst": (
        "A breast cyst lies in glandular tissue. It is round or oval, thin-walled, with fluid. On CT like water; "
        "very bright on T2 MR without enhancement."
    ),
    "thyroid nodule": (
        "A thyroid nodule lies in a lobe of the thyroid in the neck. It is rounded, solid or cystic, at times with "
        "calcium. On CT darker than the bright gland; of varied signal on MR."
    ),
    "angiomyolipoma": (
        "An angiomyolipoma is a benign tumor of the kidney of fat, muscle and vessels. It is rounded and sharp. On "
        "CT parts as dark as fat beside enhancing tissue; on MR bright on T1 and dark with fat suppression."
    ),
    "cardiac tumor": (
        "A cardiac tumor lies in a chamber or the wall of the heart. A myxoma is a rounded, mobile mass in the left "
        "atrium. On CT darker than enhanced blood; bright on T2 MR."
    ),
    "abstract lesion": ("An imaginary lesion of any shape, texture and brightness, anywhere."),
    "any lesion": (
        "A lesion or tumor of any kind in any organ: a focal mass or nodule that differs from the tissue around it "
        "in brightness or texture on CT or MR."
    ),
}


def paragraph(name: str) -> str:
    """The paragraph of an organ, a lesion, or "any lesion".

    Raises:
        KeyError: nothing of this name is described.
    """
    if name in ORGAN_TEXTS:
        return ORGAN_TEXTS[name]
    if name not in LESION_TEXTS:
        raise KeyError(f"there is no paragraph for {name!r}: write one in zerotumor/knowledge.py")
    return LESION_TEXTS[name]
