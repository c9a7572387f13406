/* hub.h - names of models in the local Hugging Face cache, resolved to directories; no network.
 *
 *   HUB/models--ORG--NAME/refs/REVISION          holds a commit
 *   HUB/models--ORG--NAME/snapshots/COMMIT/      files, usually links into ../../blobs */
#ifndef MLL_HUB_H
#define MLL_HUB_H

#include "base.h"

/* The cache's directory by huggingface_hub's rules from the values of HF_HUB_CACHE, HF_HOME,
 * XDG_CACHE_HOME and HOME (NULL or "": not set). MLL_ERR_CACHE_NOT_FOUND where none decides. */
enum mll_status hub_directory(char *out, size_t cap, const char *hub_cache, const char *hf_home,
                              const char *xdg_cache, const char *home, struct mll_error *err);
/* ORG/NAME or ORG/NAME@REVISION in form; says nothing about whether it is there. */
bool hub_is_name(const char *model);
/* The snapshot directory of a name; revision "main" where none is given, a branch, a tag or a
 * commit. MLL_ERR_CACHE_NAME: no such name can exist. MLL_ERR_CACHE_NOT_FOUND: not downloaded. A
 * snapshot may be incomplete; opening it names what is missing. */
enum mll_status hub_resolve(char *out, size_t cap, const char *model, const char *hub_dir,
                            struct mll_error *err);

#endif
