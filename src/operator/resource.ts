/** The custom resource: its schema, from which deploy/operator/crd.yaml and the types are made. */
import { LABELS } from "../counts/labels.ts";
import type { Condition, ObjectMeta } from "./types.ts";

export const GROUP = "execve-counter.dev";
export const API_VERSION = "v1alpha1";
export const KIND = "ExecveCounter";
export const PLURAL = "execvecounters";

/** How many problems the status lists, and how many nodes each of them names. */
export const MAX_PROBLEMS = 16;
export const MAX_EXAMPLES = 5;

const STRING_MAP = {
  type: "object",
  additionalProperties: { type: "string", maxLength: 253 },
  maxProperties: 32,
} as const;

const QUANTITIES = {
  type: "object",
  additionalProperties: {
    anyOf: [{ type: "integer" }, { type: "string" }],
    "x-kubernetes-int-or-string": true,
    pattern: "^[0-9]+(\\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$",
  },
  maxProperties: 8,
} as const;

const IMAGE = { type: "string", minLength: 1, maxLength: 512 } as const;

/** Where the agents run. */
const PLACEMENT = {
  nodeSelector: {
    ...STRING_MAP,
    description: "Labels that a node must have, all of them, beside kubernetes.io/os: linux.",
  },
  nodeAffinity: {
    description:
      "Terms of which a node must match one, as nodeSelectorTerms of a pod's required node affinity. No term: every node.",
    type: "array",
    maxItems: 8,
    "x-kubernetes-list-type": "atomic",
    items: {
      type: "object",
      required: ["matchExpressions"],
      properties: {
        matchExpressions: {
          description: "What a node's labels must fulfil, all of it.",
          type: "array",
          minItems: 1,
          maxItems: 8,
          "x-kubernetes-list-type": "atomic",
          items: {
            type: "object",
            required: ["key", "operator"],
            properties: {
              key: { type: "string", description: "The label's name.", maxLength: 317 },
              operator: {
                description: "How the label's value and `values` are compared.",
                type: "string",
                enum: ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"],
              },
              values: {
                description: "The values. None for Exists and DoesNotExist, one for Gt and Lt.",
                type: "array",
                maxItems: 32,
                "x-kubernetes-list-type": "atomic",
                items: { type: "string", maxLength: 63 },
              },
            },
            "x-kubernetes-validations": [
              {
                rule: "self.operator in ['Exists', 'DoesNotExist'] ? !has(self.values) || size(self.values) == 0 : has(self.values) && (self.operator in ['Gt', 'Lt'] ? size(self.values) == 1 : size(self.values) > 0)",
                message:
                  "In and NotIn need values, Gt and Lt one; Exists and DoesNotExist have none",
              },
            ],
          },
        },
      },
    },
  },
  tolerations: {
    description: "Taints of nodes that the agents tolerate; all of them by default.",
    type: "array",
    maxItems: 32,
    "x-kubernetes-list-type": "atomic",
    default: [{ operator: "Exists" }],
    items: {
      type: "object",
      properties: {
        key: { type: "string", description: "The taint's key; none for every key." },
        operator: {
          description: "Whether the taint's value counts.",
          type: "string",
          enum: ["Exists", "Equal"],
        },
        value: { type: "string", description: "With Equal, the taint's value." },
        effect: {
          description: "The taint's effect; none for every effect.",
          type: "string",
          enum: ["NoSchedule", "PreferNoSchedule", "NoExecute"],
        },
        tolerationSeconds: {
          description: "With NoExecute, how long the taint is tolerated; for good by default.",
          type: "integer",
          format: "int64",
        },
      },
    },
  },
  priorityClassName: {
    description: "The priority class of the agents' pods; none by default.",
    type: "string",
    maxLength: 253,
  },
  resources: {
    description:
      "What an agent asks for and may take. By default 10m CPU and 128Mi, and at most 256Mi, which is enough for 8192 rows; give 512Mi for 65536. What is not given here stays as it is by default.",
    type: "object",
    properties: {
      requests: { ...QUANTITIES, description: "What is set aside for an agent." },
      limits: { ...QUANTITIES, description: "The most that an agent may take." },
    },
  },
} as const;

export const SPEC = {
  description: "What is counted on the nodes, and how the agents run.",
  type: "object",
  required: ["image"],
  properties: {
    image: { ...IMAGE, description: "The agents' image. A change rolls; no count is lost." },
    imagePullPolicy: {
      description: "When a node pulls the image; IfNotPresent by default, Always for :latest.",
      type: "string",
      enum: ["Always", "IfNotPresent", "Never"],
    },
    imagePullSecrets: {
      description: "Secrets of the resource's namespace for pulling the image.",
      type: "array",
      maxItems: 8,
      "x-kubernetes-list-type": "atomic",
      items: {
        type: "object",
        required: ["name"],
        properties: { name: { type: "string", description: "The secret's name." } },
      },
    },
    attempts: {
      description:
        "How calls of execve and execveat are counted: raw, by the hook that needs no tracefs; off, only programs that start. A change begins new counts.",
      type: "string",
      enum: ["raw", "off"],
      default: "raw",
    },
    by: {
      description:
        "The labels by which execs are broken down, in any order; none for totals alone. A change begins new counts.",
      type: "array",
      maxItems: LABELS.length,
      "x-kubernetes-list-type": "set",
      items: { type: "string", enum: LABELS },
      default: ["container"],
    },
    failures: {
      description: "Whether failed calls are counted, by errno. A change begins new counts.",
      type: "boolean",
      default: false,
    },
    maxSeries: {
      description: "Rows that the breakdown has room for. A change begins new counts.",
      type: "integer",
      minimum: 16,
      maximum: 65_536,
      default: 8192,
    },
    retireAfter: {
      description:
        "How long the rows of a container or unit are kept after its end, from 1s to 1000h, like 15m; never keeps them for good.",
      type: "string",
      maxLength: 16,
      default: "15m",
      "x-kubernetes-validations": [
        {
          rule: "self == 'never' || (self.matches('^[0-9]+([.][0-9]+)?(ms|s|m|h)$') && duration(self) >= duration('1s') && duration(self) <= duration('1000h'))",
          message: "give a duration from 1s to 1000h, like 15m, or never",
        },
      ],
    },
    watch: {
      description:
        "Names of commands that are counted one by one: the file's name without its directory, at most 15 bytes. Every agent takes a change over within a minute or two, without a restart.",
      type: "array",
      maxItems: 4093,
      "x-kubernetes-list-type": "set",
      default: [],
      items: {
        type: "string",
        minLength: 1,
        maxLength: 15,
        // As requireName, which counts bytes where maxLength counts characters.
        pattern:
          "^[^/#\\s\\x00-\\x1f\\x7f\ufffd]([^/\\x00-\\x1f\\x7f\ufffd]*[^/\\s\\x00-\\x1f\\x7f\ufffd])?$",
        "x-kubernetes-validations": [
          { rule: "size(bytes(self)) <= 15", message: "give at most 15 bytes" },
        ],
      },
    },
    pin: {
      description:
        "Keep: what counts stays in the kernel while a pod is replaced, so no count is lost. None: the counts end with each pod. A change begins new counts.",
      type: "string",
      enum: ["Keep", "None"],
      default: "Keep",
    },
    onDelete: {
      description:
        "What becomes of counts that are kept once this resource is deleted. Unpin: the programs are removed from every node that can be reached. Retain: they go on counting.",
      type: "string",
      enum: ["Unpin", "Retain"],
      default: "Unpin",
    },
    ...PLACEMENT,
    rollout: {
      description: "How a change of the pods reaches the nodes.",
      type: "object",
      default: {},
      properties: {
        maxUnavailable: {
          description: "How many nodes at once may be without an agent: a number or a percentage.",
          anyOf: [{ type: "integer" }, { type: "string" }],
          "x-kubernetes-int-or-string": true,
          pattern: "^([1-9][0-9]?|100)%$",
          default: 1,
          "x-kubernetes-validations": [
            {
              rule: "type(self) == int ? self >= 1 : true",
              message: "give at least 1, or a percentage",
            },
          ],
        },
        canary: {
          description:
            "Some nodes run another image: try it there, then set it as the image of all, and remove the canary.",
          type: "object",
          required: ["nodeSelector", "image"],
          properties: {
            nodeSelector: {
              ...STRING_MAP,
              description: "Labels of the nodes that run the canary, all of them.",
              minProperties: 1,
              maxProperties: 4,
            },
            image: { ...IMAGE, description: "The image that they run." },
          },
        },
      },
    },
    monitoring: {
      description: "How Prometheus gets at the agents.",
      type: "object",
      default: {},
      properties: {
        mode: {
          description:
            "Auto: a PodMonitor and a PrometheusRule, where the cluster has the Prometheus operator. None: neither.",
          type: "string",
          enum: ["Auto", "None"],
          default: "Auto",
        },
        namespaces: {
          description: "Namespaces from which the agents may be scraped.",
          type: "array",
          maxItems: 16,
          "x-kubernetes-list-type": "set",
          items: { type: "string", maxLength: 63 },
          default: ["monitoring"],
        },
      },
    },
    paused: {
      description: "Whether the operator leaves everything as it is, and only reports.",
      type: "boolean",
      default: false,
    },
    podLabels: {
      ...STRING_MAP,
      description: "Labels that the agents' pods get besides their own.",
      "x-kubernetes-validations": [
        {
          rule: "self.all(key, !key.startsWith('app.kubernetes.io/') && !key.startsWith('execve-counter.dev/'))",
          message: "labels of app.kubernetes.io and execve-counter.dev are the operator's",
        },
      ],
    },
    podAnnotations: {
      type: "object",
      additionalProperties: { type: "string", maxLength: 4096 },
      maxProperties: 32,
      description: "Annotations that the agents' pods get.",
    },
  },
} as const;

const COUNT = { type: "integer", format: "int32" } as const;

export const STATUS = {
  description: "What the operator has seen last.",
  type: "object",
  properties: {
    observedGeneration: {
      description: "The generation of the spec that the rest of the status is about.",
      type: "integer",
      format: "int64",
    },
    flags: {
      type: "string",
      description: "The agents' flags with others of which counts begin anew.",
    },
    countsSince: {
      description: "When these flags were last changed: counts are not older.",
      type: "string",
      format: "date-time",
    },
    nodes: {
      description: "How many nodes there are of each kind.",
      type: "object",
      required: ["eligible", "counting", "starting", "failing", "unsupported", "excluded"],
      properties: {
        eligible: { ...COUNT, description: "Nodes that should count." },
        counting: { ...COUNT, description: "Of these, nodes whose agent counts." },
        starting: { ...COUNT, description: "Of these, nodes whose agent is being started." },
        failing: { ...COUNT, description: "Of these, nodes that do not count; see problems." },
        unsupported: { ...COUNT, description: "Nodes on which no agent can run." },
        excluded: { ...COUNT, description: "Nodes that the spec leaves out." },
      },
    },
    problems: {
      description: `Why nodes do not count, the reasons with the most nodes first; at most ${MAX_PROBLEMS}.`,
      type: "array",
      maxItems: MAX_PROBLEMS,
      "x-kubernetes-list-type": "atomic",
      items: {
        type: "object",
        required: ["reason", "nodes", "examples", "message"],
        properties: {
          reason: { type: "string", description: "The reason, in a word." },
          nodes: { ...COUNT, description: "How many nodes it is true of." },
          examples: {
            description: `Some of these nodes, at most ${MAX_EXAMPLES}.`,
            type: "array",
            maxItems: MAX_EXAMPLES,
            "x-kubernetes-list-type": "atomic",
            items: { type: "string" },
          },
          message: { type: "string", description: "What one of them says, and what to do." },
        },
      },
    },
    conditions: {
      description: "Available, Progressing, Degraded, WatchListApplied, MonitoringReady, Conflict.",
      type: "array",
      "x-kubernetes-list-type": "map",
      "x-kubernetes-list-map-keys": ["type"],
      items: {
        type: "object",
        required: ["type", "status", "reason", "message", "lastTransitionTime"],
        properties: {
          type: { type: "string", description: "What it is about." },
          status: {
            type: "string",
            enum: ["True", "False", "Unknown"],
            description: "Whether that is so.",
          },
          reason: { type: "string", description: "Why, in a word." },
          message: { type: "string", description: "Why, and what to do." },
          lastTransitionTime: {
            type: "string",
            format: "date-time",
            description: "When the status last changed.",
          },
          observedGeneration: {
            type: "integer",
            format: "int64",
            description: "The generation of the spec that it is about.",
          },
        },
      },
    },
  },
} as const;

/** The values that a schema allows, once the API server has filled in the defaults. */
type Value<S> = S extends { "x-kubernetes-int-or-string": true }
  ? number | string
  : S extends { enum: readonly (infer E)[] }
    ? E
    : S extends { type: "string" }
      ? string
      : S extends { type: "integer" }
        ? number
        : S extends { type: "boolean" }
          ? boolean
          : S extends { type: "array"; items: infer I }
            ? Value<I>[]
            : S extends { properties: infer P; required: readonly (infer R)[] }
              ? Properties<P, R>
              : S extends { properties: infer P }
                ? Properties<P, never>
                : S extends { additionalProperties: infer A }
                  ? Record<string, Value<A>>
                  : never;
type Properties<P, R> = {
  [K in keyof P as P[K] extends { default: unknown } ? K : K extends R ? K : never]: Value<P[K]>;
} & {
  [K in keyof P as P[K] extends { default: unknown } ? never : K extends R ? never : K]?: Value<
    P[K]
  >;
};

export type Spec = Value<typeof SPEC>;
export type Status = Omit<Value<typeof STATUS>, "conditions"> & { conditions?: Condition[] };
export type NodeCounts = NonNullable<Status["nodes"]>;
export type Problem = NonNullable<Status["problems"]>[number];

export interface Resource {
  apiVersion: string;
  kind: string;
  metadata: ObjectMeta;
  spec: Spec;
  status?: Status;
}

const column = (name: string, type: string, jsonPath: string, description: string, priority = 0) =>
  ({ name, type, jsonPath, description, ...(priority ? { priority } : {}) }) as const;

/** The CustomResourceDefinition, as deploy/operator/crd.yaml has it. */
export const CRD = {
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: `${PLURAL}.${GROUP}` },
  spec: {
    group: GROUP,
    scope: "Namespaced",
    names: {
      kind: KIND,
      listKind: `${KIND}List`,
      plural: PLURAL,
      singular: "execvecounter",
      shortNames: ["ec"],
    },
    versions: [
      {
        name: API_VERSION,
        served: true,
        storage: true,
        subresources: { status: {} },
        additionalPrinterColumns: [
          column("Eligible", "integer", ".status.nodes.eligible", "Nodes that should count."),
          column("Counting", "integer", ".status.nodes.counting", "Nodes that count."),
          column("Failing", "integer", ".status.nodes.failing", "Nodes that do not."),
          column("Problem", "string", ".status.problems[0].reason", "Why most of them do not."),
          column(
            "Since",
            "date",
            ".status.countsSince",
            "How long these flags have been in force.",
          ),
          column("Image", "string", ".spec.image", "The agents' image.", 1),
          column(
            "Age",
            "date",
            ".metadata.creationTimestamp",
            "How long the resource has been there.",
          ),
        ],
        schema: {
          openAPIV3Schema: {
            description: "Counts program executions on the nodes of the cluster.",
            type: "object",
            required: ["spec"],
            properties: { spec: SPEC, status: STATUS },
            "x-kubernetes-validations": [
              {
                rule: "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 40",
                message: "the name must be at most 40 lower-case letters, digits and hyphens",
              },
              {
                rule: "!self.metadata.name.endsWith('-unpin') && !self.metadata.name.endsWith('-canary')",
                message:
                  "names that end in -unpin or -canary are those of the operator's DaemonSets",
              },
            ],
          },
        },
      },
    ],
  },
} as const;
