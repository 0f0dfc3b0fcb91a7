"""What people read: one message and one hint per failure reason, and the warnings, in English and Chinese.

A test compares the keys of both languages and the placeholders of every pair. Placeholders are the `details` of a
`Failure` (or of `warn`); a value is put in as text and never interpreted.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from handoff.failures import Failure, Reason

Language = Literal["en", "zh"]


@dataclass(frozen=True)
class Text:
    """What happened, and what to do about it."""

    message: str
    hint: str


FAILURES: dict[Reason, dict[Language, Text]] = {
    Reason.NOT_JSON: {
        "en": Text(
            "Not valid JSON: {problem} at line {line}, column {column}.",
            "Open the file in an editor that checks JSON; a missing comma or quote near that place is the usual cause.",
        ),
        "zh": Text(
            "不是有效的 JSON：第 {line} 行第 {column} 列，{problem}。",
            "用能检查 JSON 的编辑器打开此文件；通常是该处附近缺少逗号或引号。",
        ),
    },
    Reason.TRUNCATED: {
        "en": Text(
            "The file ends in the middle ({bytes} bytes) and has not changed for {seconds} s.",
            "Copy it again. Writing to another name and renaming it to *.json at the end avoids this.",
        ),
        "zh": Text(
            "文件在中途结束（{bytes} 字节），且已有 {seconds} 秒没有变化。",
            "请重新复制。先写成别的名字、最后再改名为 *.json 可避免此问题。",
        ),
    },
    Reason.BAD_ENCODING: {
        "en": Text(
            "Not UTF-8 text: {problem}.",
            "Save the file as UTF-8. UTF-16 is accepted when it begins with a byte-order mark.",
        ),
        "zh": Text("不是 UTF-8 文本：{problem}。", "请将文件另存为 UTF-8。带字节顺序标记的 UTF-16 也可以。"),
    },
    Reason.TOO_LARGE: {
        "en": Text(
            "Too large: {bytes} bytes, the limit is {limit}.",
            "Put pictures beside the job file, or into uploads/, instead of into it.",
        ),
        "zh": Text(
            "太大：{bytes} 字节，上限为 {limit}。", "请把图片放在任务文件旁边或 uploads/ 中，而不是写进任务文件。"
        ),
    },
    Reason.TOO_DEEP: {
        "en": Text(
            "Nested too deeply or too many values: the limit is {limit}.",
            "A job is a flat object with one graph in it; check what generated this file.",
        ),
        "zh": Text(
            "嵌套过深或值过多：上限为 {limit}。", "任务是一个扁平的对象，其中含一个图；请检查生成此文件的程序。"
        ),
    },
    Reason.DUPLICATE_KEY: {
        "en": Text(
            "The key {key} stands twice in one object.",
            "Remove one of the two; programs disagree about which one counts.",
        ),
        "zh": Text("键 {key} 在同一对象中出现了两次。", "请删除其中一个；不同程序对以哪个为准并不一致。"),
    },
    Reason.BAD_NUMBER: {
        "en": Text(
            "{value} is not a number that JSON allows or that ComfyUI can take.",
            "Use finite numbers; integers have at most 20 digits.",
        ),
        "zh": Text("{value} 不是 JSON 允许或 ComfyUI 能接受的数字。", "请使用有限的数值；整数最多 20 位。"),
    },
    Reason.NOT_A_JOB: {
        "en": Text(
            "No job: {problem}.",
            'Write {{"prompt": "…"}}, {{"workflow": "NAME", "params": {{…}}}}, {{"graph": {{…}}}}, or a file made by ComfyUI\'s "Export (API)".',
        ),
        "zh": Text(
            "不是任务：{problem}。",
            '请写成 {{"prompt": "…"}}、{{"workflow": "NAME", "params": {{…}}}}、{{"graph": {{…}}}}，或使用 ComfyUI 的“导出 (API)”文件。',
        ),
    },
    Reason.UI_FORMAT: {
        "en": Text(
            "This is a workflow as ComfyUI's editor saves it, not the API format that can be run.",
            'In ComfyUI choose Workflow → Export (API) and drop that file. (Older versions: enable "Dev mode options" in the settings first.)',
        ),
        "zh": Text(
            "这是 ComfyUI 编辑器保存的工作流，不是可以运行的 API 格式。",
            "请在 ComfyUI 中选择 工作流 → 导出 (API)，再放入那个文件。（旧版本需先在设置中启用“开发者模式选项”。）",
        ),
    },
    Reason.UNKNOWN_FIELD: {
        "en": Text("Unknown field {field}.", "The nearest known: {nearest}."),
        "zh": Text("未知字段 {field}。", "最接近的已知名称：{nearest}。"),
    },
    Reason.BAD_FIELD: {
        "en": Text(
            "The field {field} is wrong: {problem}.", "The README's table of job fields says what each one takes."
        ),
        "zh": Text("字段 {field} 有误：{problem}。", "各字段的取值见 README 中的任务字段表。"),
    },
    Reason.BAD_NAME: {
        "en": Text("The file name cannot be used: {problem}.", "Use a UTF-8 name of at most {limit} bytes."),
        "zh": Text("文件名无法使用：{problem}。", "请使用不超过 {limit} 字节的 UTF-8 文件名。"),
    },
    Reason.NOT_A_FILE: {
        "en": Text(
            "Not a regular file but a {kind}.",
            "Copy the job file itself into input/; links, folders, pipes and devices are not followed or opened.",
        ),
        "zh": Text(
            "不是普通文件，而是{kind}。", "请把任务文件本身复制到 input/；链接、文件夹、管道和设备不会被跟随或打开。"
        ),
    },
    Reason.UNREADABLE: {
        "en": Text(
            "The file cannot be read: {problem}.",
            "Give the watcher's user or group read permission, for example chmod g+r, and drop it again.",
        ),
        "zh": Text("无法读取文件：{problem}。", "请给监视程序的用户或组读取权限（例如 chmod g+r），然后重新放入。"),
    },
    Reason.ID_TAKEN: {
        "en": Text(
            "The id {id} belongs to another job with other content.",
            "Choose another id, or leave it out. The other job is untouched.",
        ),
        "zh": Text("id {id} 已属于内容不同的另一个任务。", "请换一个 id 或省略它。另一个任务不受影响。"),
    },
    Reason.UNKNOWN_ID: {
        "en": Text(
            "No job has the id {id}.",
            "`handoff list` shows the ids; a dropped file's id is made from its name and the time.",
        ),
        "zh": Text(
            "没有 id 为 {id} 的任务。",
            "`handoff list` 可列出 id；放入文件的 id 由文件名和时间生成。",
        ),
    },
    Reason.UNKNOWN_WORKFLOW: {
        "en": Text("No workflow is named {workflow}.", "The nearest known: {nearest}."),
        "zh": Text("没有名为 {workflow} 的工作流。", "最接近的已知名称：{nearest}。"),
    },
    Reason.BROKEN_WORKFLOW: {
        "en": Text(
            "The workflow {workflow} cannot be used: {problem}.",
            "`handoff workflows check {workflow}` lists everything that is wrong with it.",
        ),
        "zh": Text("工作流 {workflow} 无法使用：{problem}。", "`handoff workflows check {workflow}` 会列出所有问题。"),
    },
    Reason.UNKNOWN_PARAMETER: {
        "en": Text("The workflow {workflow} has no parameter {parameter}.", "The nearest known: {nearest}."),
        "zh": Text("工作流 {workflow} 没有参数 {parameter}。", "最接近的已知名称：{nearest}。"),
    },
    Reason.BAD_PARAMETER: {
        "en": Text(
            "{parameter} is {value}: {problem}.",
            "`handoff workflows list {workflow}` shows every parameter with its limits.",
        ),
        "zh": Text(
            "{parameter} 的值为 {value}：{problem}。", "`handoff workflows list {workflow}` 会列出所有参数及其限制。"
        ),
    },
    Reason.MISSING_PARAMETER: {
        "en": Text("The workflow {workflow} needs {parameter}.", "Give it in params: {help}"),
        "zh": Text("工作流 {workflow} 需要 {parameter}。", "请在 params 中给出：{help}"),
    },
    Reason.BAD_OVERRIDE: {
        "en": Text(
            "set names {target}: {problem}.",
            "Use NODE.INPUT, where NODE is a node's id or its title in the exported graph.",
        ),
        "zh": Text("set 指定了 {target}：{problem}。", "请使用 节点.输入，其中节点是导出图中的节点 id 或标题。"),
    },
    Reason.BAD_GRAPH: {
        "en": Text(
            "The graph was not sent, since it would harm the server or cannot run: {problem}.",
            "Export it again from ComfyUI with Workflow → Export (API).",
        ),
        "zh": Text(
            "该图未发送，因为它会损害服务器或无法运行：{problem}。", "请在 ComfyUI 中用 工作流 → 导出 (API) 重新导出。"
        ),
    },
    Reason.GRAPHS_NOT_ALLOWED: {
        "en": Text("Full graphs are switched off here.", "Use a named workflow, or set HANDOFF_ALLOW_GRAPHS=yes."),
        "zh": Text("此处禁止使用完整的图。", "请使用命名的工作流，或设置 HANDOFF_ALLOW_GRAPHS=yes。"),
    },
    Reason.NODE_DENIED: {
        "en": Text(
            "The node class {class_type} may not be used here.",
            "HANDOFF_NODE_DENY lists the classes that nobody may use.",
        ),
        "zh": Text("此处不允许使用节点类 {class_type}。", "HANDOFF_NODE_DENY 列出了禁止使用的类。"),
    },
    Reason.MODEL_NOT_CHOSEN: {
        "en": Text(
            "{parameter} has no default, and ComfyUI has {found}.",
            "Name one in params, or put exactly one fitting model into ComfyUI's folder {folder}.",
        ),
        "zh": Text(
            "{parameter} 没有默认值，而 ComfyUI 有 {found}。",
            "请在 params 中指定一个，或在 ComfyUI 的 {folder} 文件夹中只放一个合适的模型。",
        ),
    },
    Reason.MISSING_PICTURE: {
        "en": Text(
            "The picture {picture} did not arrive within {seconds} s.",
            "Copy it into input/ or input/uploads/ and drop the job again.",
        ),
        "zh": Text(
            "图片 {picture} 在 {seconds} 秒内没有出现。", "请把它复制到 input/ 或 input/uploads/，然后重新放入任务。"
        ),
    },
    Reason.BAD_PICTURE: {
        "en": Text(
            "{picture} cannot be used as a picture: {problem}.",
            "Use a PNG, JPEG, WebP, GIF, BMP or TIFF file within the size limits.",
        ),
        "zh": Text(
            "{picture} 不能用作图片：{problem}。", "请使用大小限制内的 PNG、JPEG、WebP、GIF、BMP 或 TIFF 文件。"
        ),
    },
    Reason.FORBIDDEN_URL: {
        "en": Text(
            "{url} may not be fetched: {problem}.",
            "HANDOFF_URL_ALLOW lists the hosts and HANDOFF_S3_INPUT_PREFIXES the bucket prefixes that pictures may come from.",
        ),
        "zh": Text(
            "不允许获取 {url}：{problem}。",
            "HANDOFF_URL_ALLOW 列出允许的主机，HANDOFF_S3_INPUT_PREFIXES 列出允许的存储桶前缀。",
        ),
    },
    Reason.PICTURE_NOT_FETCHED: {
        "en": Text(
            "{url} could not be fetched: {problem}.",
            "Check that the address answers from where the watcher runs, then send the job again.",
        ),
        "zh": Text("无法获取 {url}：{problem}。", "请确认该地址能从监视程序所在处访问，然后重新提交任务。"),
    },
    Reason.WORKFLOW_UNAVAILABLE: {
        "en": Text(
            "No ComfyUI here can run this: {lacks}.",
            "Install the missing nodes or models on one of them, then retry the job.",
        ),
        "zh": Text("此处没有 ComfyUI 能运行它：{lacks}。", "请在其中一台上安装缺少的节点或模型，然后重试任务。"),
    },
    Reason.VALIDATION_FAILED: {
        "en": Text(
            "ComfyUI refused the graph: {problem}.",
            "Open the workflow in ComfyUI and run it there once with the same values.",
        ),
        "zh": Text("ComfyUI 拒绝了该图：{problem}。", "请在 ComfyUI 中打开此工作流，用相同的值运行一次。"),
    },
    Reason.COMFYUI_ERROR: {
        "en": Text(
            "ComfyUI answered {problem} to this job.",
            "Its log says why; a custom node that breaks on this graph is the usual cause.",
        ),
        "zh": Text("ComfyUI 对此任务的回答是 {problem}。", "原因见其日志；通常是某个自定义节点无法处理此图。"),
    },
    Reason.NODE_ERROR: {
        "en": Text(
            "A node failed: {problem}.", "The node named here raised the error; `handoff show {id}` has the details."
        ),
        "zh": Text("一个节点失败：{problem}。", "错误由此处指出的节点引发；`handoff show {id}` 可查看详情。"),
    },
    Reason.OUT_OF_MEMORY: {
        "en": Text(
            "The GPU ran out of memory, also after its models were unloaded: {problem}.",
            "Use a smaller picture, a smaller batch or a smaller model.",
        ),
        "zh": Text("显存不足，卸载模型后仍然如此：{problem}。", "请使用更小的图片、更小的批次或更小的模型。"),
    },
    Reason.INTERRUPTED: {
        "en": Text("Somebody interrupted it at ComfyUI, twice.", "`handoff retry {id}` starts it again."),
        "zh": Text("有人在 ComfyUI 中两次中断了它。", "`handoff retry {id}` 可重新开始。"),
    },
    Reason.TIMEOUT: {
        "en": Text(
            "It ran longer than its run_timeout_s of {seconds} s.",
            "Raise run_timeout_s, or ask for less (steps, size).",
        ),
        "zh": Text(
            "运行时间超过了 run_timeout_s（{seconds} 秒）。", "请调大 run_timeout_s，或减少要求（步数、尺寸）。"
        ),
    },
    Reason.QUEUE_TIMEOUT: {
        "en": Text(
            "It waited longer than its queue_timeout_s of {seconds} s.",
            "Raise queue_timeout_s or priority; `handoff list` shows what is before it.",
        ),
        "zh": Text(
            "等待时间超过了 queue_timeout_s（{seconds} 秒）。",
            "请调大 queue_timeout_s 或 priority；`handoff list` 可查看排在前面的任务。",
        ),
    },
    Reason.CANCELLED: {
        "en": Text("It was cancelled.", "`handoff retry {id}` starts it again."),
        "zh": Text("任务已取消。", "`handoff retry {id}` 可重新开始。"),
    },
    Reason.LOST: {
        "en": Text(
            "ComfyUI lost it {attempts} times while it ran.",
            "This job probably brings ComfyUI down: look into ComfyUI's log before you retry it.",
        ),
        "zh": Text(
            "运行期间 ComfyUI 丢失了它 {attempts} 次。", "此任务可能会使 ComfyUI 崩溃：重试前请先查看 ComfyUI 的日志。"
        ),
    },
    Reason.INTERNAL_ERROR: {
        "en": Text("Handoff itself failed on this: {problem}.", "Its log has the details; please report them."),
        "zh": Text("Handoff 自身在处理时出错：{problem}。", "详情见其日志；请报告此问题。"),
    },
    Reason.NO_OUTPUTS: {
        "en": Text(
            "ComfyUI reported success and nothing was saved or shown.",
            "Add a node that saves a file, such as SaveImage, to the workflow.",
        ),
        "zh": Text("ComfyUI 报告成功，但没有保存或显示任何内容。", "请在工作流中添加保存文件的节点，例如 SaveImage。"),
    },
    Reason.OUTPUT_MISSING: {
        "en": Text(
            "ComfyUI listed {file}, which is not there.",
            "Check with `handoff doctor` that HANDOFF_OUTPUT_DIR is ComfyUI's own output folder.",
        ),
        "zh": Text(
            "ComfyUI 列出了 {file}，但它并不存在。",
            "请用 `handoff doctor` 检查 HANDOFF_OUTPUT_DIR 是否为 ComfyUI 自己的输出文件夹。",
        ),
    },
    Reason.OUTPUT_BROKEN: {
        "en": Text(
            "ComfyUI listed {file}, which is no whole file of this job: {problem}.",
            "Look for a full disk or a second program that writes into ComfyUI's output folder, then retry.",
        ),
        "zh": Text(
            "ComfyUI 列出了 {file}，但它不是此任务的完整文件：{problem}。",
            "请检查磁盘是否已满，或是否有其他程序写入 ComfyUI 的输出文件夹，然后重试。",
        ),
    },
    Reason.OUTPUT_REFUSED: {
        "en": Text(
            "The bucket refused {file} for good: {problem}.",
            "The file is in output/{id}/. The limits of the store, often on size, are the usual cause.",
        ),
        "zh": Text(
            "存储桶永久拒绝了 {file}：{problem}。", "文件在 output/{id}/ 中。通常是存储的限制（多为大小限制）所致。"
        ),
    },
    Reason.BAD_BODY: {
        "en": Text(
            "The body of the request cannot be used: {problem}.",
            "Send JSON, a form (application/x-www-form-urlencoded) or multipart/form-data, with the matching Content-Type.",
        ),
        "zh": Text(
            "无法使用请求体：{problem}。",
            "请发送 JSON、表单（application/x-www-form-urlencoded）或 multipart/form-data，并使用相应的 Content-Type。",
        ),
    },
    Reason.UNREPLACED_VARIABLE: {
        "en": Text(
            "{field} is {value}: the name of a Dify variable, not its value.",
            "Run the whole flow, not this node alone; and give variables that may stay empty a default, or take them out of the request.",
        ),
        "zh": Text(
            "{field} 的值是 {value}：这是 Dify 变量的名称，而不是它的值。",
            "请运行整个流程，不要单独运行此节点；对可能为空的变量请设置默认值，或从请求中去掉。",
        ),
    },
    Reason.UNAUTHORIZED: {
        "en": Text(
            "{problem}.",
            "Send a key of this server as Authorization: Bearer KEY, or as X-API-Key: KEY; its operator has them in HANDOFF_API_KEYS.",
        ),
        "zh": Text(
            "{problem}.",
            "请以 Authorization: Bearer KEY 或 X-API-Key: KEY 发送此服务器的密钥；运维人员在 HANDOFF_API_KEYS 中设置。",
        ),
    },
    Reason.FORBIDDEN: {
        "en": Text(
            "Not allowed: {problem}.", "The operator of this server decides it in its settings (HANDOFF_API_KEYS)."
        ),
        "zh": Text("不允许：{problem}。", "由此服务器的运维人员在设置（HANDOFF_API_KEYS）中决定。"),
    },
    Reason.NOT_FOUND: {
        "en": Text("There is nothing at {path}.", "Jobs are at /v1/jobs; the page / shows what else there is."),
        "zh": Text("{path} 处没有内容。", "任务位于 /v1/jobs；页面 / 列出其余内容。"),
    },
    Reason.METHOD_NOT_ALLOWED: {
        "en": Text("{method} cannot be used at {path}.", "Possible there: {allowed}"),
        "zh": Text("{path} 不支持 {method}。", "可用的方法：{allowed}"),
    },
    Reason.UNKNOWN_OUTPUT: {
        "en": Text(
            "The job {id} has no output {output}.", "Its status document lists the outputs; they are counted from 1."
        ),
        "zh": Text("任务 {id} 没有输出 {output}。", "其状态文档列出全部输出；编号从 1 开始。"),
    },
    Reason.LINK_EXPIRED: {
        "en": Text("This link has expired.", "Asking for the job's status gives a fresh one."),
        "zh": Text("此链接已过期。", "重新查询任务状态即可得到新链接。"),
    },
    Reason.NOT_RETRYABLE: {
        "en": Text(
            "{id} cannot be retried: {problem}.",
            "Only a job that is over and did not succeed can; submit it anew instead.",
        ),
        "zh": Text("{id} 无法重试：{problem}。", "只有已结束且未成功的任务可以重试；否则请重新提交。"),
    },
    Reason.TOO_MANY_REQUESTS: {
        "en": Text(
            "{owner} has {limit} requests under way, the most that may be.",
            "Wait until some are answered; HANDOFF_REQUESTS_PER_KEY is the limit.",
        ),
        "zh": Text(
            "{owner} 已有 {limit} 个请求在进行，已达上限。", "请等部分请求完成；上限由 HANDOFF_REQUESTS_PER_KEY 设置。"
        ),
    },
    Reason.TOO_MANY_JOBS: {
        "en": Text(
            "{owner} has {limit} unfinished jobs, the most that may be.",
            "Wait until some are over; HANDOFF_JOBS_PER_KEY is the limit.",
        ),
        "zh": Text(
            "{owner} 已有 {limit} 个未完成的任务，已达上限。", "请等部分任务结束；上限由 HANDOFF_JOBS_PER_KEY 设置。"
        ),
    },
    Reason.UNAVAILABLE: {
        "en": Text(
            "This cannot be done just now: {problem}.",
            "Try again in some seconds. If it stays so, the server's operator finds the remedy with `handoff doctor`.",
        ),
        "zh": Text(
            "暂时无法完成：{problem}。", "请几秒后重试。若持续如此，运维人员可用 `handoff doctor` 找到解决办法。"
        ),
    },
}

WARNINGS: dict[str, dict[Language, str]] = {
    "model_chosen": {"en": "{parameter} was not given: took {model}, the only one there is.", "zh": "未给出 {parameter}：使用了唯一可用的 {model}。"},
    "previews": {"en": "Nothing was saved: these are previews.", "zh": "没有保存任何内容：这些是预览图。"},
    "resubmitted": {"en": "Attempt {attempt} was lost by ComfyUI; it was sent again.", "zh": "第 {attempt} 次尝试被 ComfyUI 丢失，已重新发送。"},
    "memory_freed": {"en": "Attempt {attempt} ran out of memory; the models were unloaded and it was sent again.", "zh": "第 {attempt} 次尝试显存不足；已卸载模型并重新发送。"},
    "interrupted": {"en": "Attempt {attempt} was interrupted at ComfyUI; it was sent again.", "zh": "第 {attempt} 次尝试在 ComfyUI 中被中断，已重新发送。"},
    "prefix_replaced": {"en": "The filename_prefix of node {node} came from another node; it was replaced.", "zh": "节点 {node} 的 filename_prefix 来自另一个节点，已被替换。"},
    "text_cut": {"en": "The text of node {node} was cut after {bytes} bytes.", "zh": "节点 {node} 的文本在 {bytes} 字节后被截断。"},
    "texts_left_out": {"en": "Of the texts only the first {kept} were kept; {count} more were left out.", "zh": "文本只保留了前 {kept} 条，其余 {count} 条已略去。"},
    "nodes_left_out": {"en": "The outputs of {count} node(s) were left out: an id may have {limit} characters at most.", "zh": "{count} 个节点的输出已略去：节点 id 最多 {limit} 个字符。"},
    "holds_secret": {"en": "{file} holds a secret of the graph: ComfyUI writes the graph into what it saves. Start ComfyUI with --disable-metadata.", "zh": "{file} 中含有图里的密钥：ComfyUI 会把图写入所保存的文件。请用 --disable-metadata 启动 ComfyUI。"},
    "elsewhere": {"en": "{file} was saved outside this job's own folder by a node that chooses its own place.", "zh": "{file} 由自行选择位置的节点保存在此任务的文件夹之外。"},
}  # fmt: skip


def render(failure: Failure, language: Language) -> Text:
    """The failure's message and hint. A detail that is missing shows as its name rather than hiding the failure."""
    text = FAILURES[failure.reason][language]
    return Text(_fill(text.message, failure), _fill(text.hint, failure))


def warn(key: str, language: Language, **details: str | float) -> str:
    """One line for `warnings` in the status document. Raises KeyError for a key that is not in the table."""
    return WARNINGS[key][language].format(**details)


class _Named(dict[str, str | float]):
    def __missing__(self, key: str) -> str:
        return f"({key})"


def _fill(template: str, failure: Failure) -> str:
    return template.format_map(_Named(failure.details))


def nearest(name: str, known: Iterable[str]) -> str:
    """The names most like `name`, or all (at most 30) where none is alike: the detail `nearest` of a failure."""
    names = sorted(known)
    return ", ".join(get_close_matches(name, names, n=3, cutoff=0.5) or names[:30]) or "-"
