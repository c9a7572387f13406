/* checkpoint.h - the safetensors files of a model directory as one set of tensors.
 *
 * Either model.safetensors.index.json with its shards, or model.safetensors alone. The index must
 * map bare file names, and map and headers must agree both ways: no tensor missing, misplaced,
 * unlisted or stored twice. Directories that hold only formats we do not read (PyTorch pickles,
 * GGUF, LoRA adapters) are refused by name. Symbolic links are followed, as the HF cache needs it.
 */
#ifndef MLL_CHECKPOINT_H
#define MLL_CHECKPOINT_H

#include "defects.h"
#include "safetensors.h"

struct ckpt;

/* Opens every file that can be opened and adds every defect; NULL only where nothing could be.
 * Where a defect was added the set may be incomplete, but what it holds is sound. */
struct ckpt *ckpt_check(const char *dir, enum st_mode mode, struct defects *d);
/* The same, all or nothing. */
enum mll_status ckpt_open(struct ckpt **ckpt, const char *dir, enum st_mode mode,
                          struct mll_error *err);
void ckpt_close(struct ckpt *ckpt); /* NULL allowed */

/* True where a file could not be opened: a tensor that is not found may be in there. */
bool ckpt_is_incomplete(const struct ckpt *ckpt);

size_t ckpt_count(const struct ckpt *ckpt);
const struct st_tensor *ckpt_at(const struct ckpt *ckpt, size_t i);
const struct st_tensor *ckpt_find(const struct ckpt *ckpt, const char *name);
/* The file that holds a tensor: its name inside the directory, and the reader. */
const char *ckpt_file_name(const struct ckpt *ckpt, const struct st_tensor *tensor);
const struct st_file *ckpt_file(const struct ckpt *ckpt, const struct st_tensor *tensor);
/* MLL_ERR_FILE_CHANGED where a file no longer has its size: a mapped page may be gone, and touching
 * it would be a SIGBUS. One fstat a file. */
enum mll_status ckpt_check_unchanged(const struct ckpt *ckpt, struct mll_error *err);

/* Adds a defect and returns true where dir, or the file of that name, holds only a format that we
 * do not read. */
bool ckpt_refuse_format(const char *dir, struct defects *d);
/* The status that a reader's or writer's stands for, with "FILE: " before its message. */
enum mll_status ckpt_fail_st(struct mll_error *err, const char *file, const struct st_error *e);

#endif
